"""What a line asks, or why it cannot be asked."""

import json
from typing import Any

import pytest

from batch_lines import request_line
from langgraph_arbitrage.batch.question import Question, read_question

HELLO = [{"role": "user", "content": "Hello!"}]


def question(line: Any, number: int = 3) -> Question:
    return read_question(number, line if isinstance(line, bytes) else json.dumps(line).encode())


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ({"messages": HELLO}, HELLO),
        ({"prompt": "Hello!"}, HELLO),
        ({"prompt": "Hello!", "messages": None}, HELLO),
        ({"custom_id": "a", "body": {"messages": HELLO}}, HELLO),
    ],
)
def test_every_form_of_a_line_is_read(line: Any, messages: Any) -> None:
    found = question(line)
    assert (found.fault, found.messages) == (None, messages)


def test_fields_of_a_line_override_settings() -> None:
    body = {
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "top_p": 1,
        "top_k": 3,
        "seed": 1,
        "stop": ["a", "b"],
        "threshold": 0.2,
        "max_steps": 4,
        "max_step_tokens": 6,
        "timeout": 9,
        "user": "me",
        "stream": False,
        "n": 1,
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "top_logprobs": None,
    }
    found = question(request_line(1, **body))
    assert found.fault is None
    assert found.id == "q1"
    assert found.options == {
        "max_tokens": 5,
        **{name: body[name] for name in list(body)[1:10]},
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"not json", "it is no JSON: Expecting value"),
        (b'{"prompt": "x"', "it is no JSON"),
        (b'{"prompt": "\xff"}', "no valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        ([1], "must be a JSON object, not [1]"),
        ({}, "neither messages nor a prompt"),
        ({"prompt": "  "}, "prompt must be a text that is not empty"),
        ({"prompt": ["a"]}, "prompt must be a text that is not empty"),
        ({"messages": []}, "messages must be a list that is not empty, not []"),
        ({"messages": "Hi"}, "messages must be a list that is not empty, not 'Hi'"),
        ({"body": {"messages": HELLO}}, "custom_id is missing"),
        ({"custom_id": 7, "prompt": "x"}, "custom_id must be a text, not 7"),
        ({"custom_id": "", "prompt": "x"}, "custom_id must be a text, not ''"),
        ({"custom_id": "a", "body": 7}, "body must be a JSON object, not 7"),
        (request_line(1) | {"url": "/v1/embeddings"}, "url must be /v1/chat/completions"),
        (request_line(1) | {"method": "GET"}, "method must be POST, not 'GET'"),
        (request_line(1, max_tokens="many"), "max_tokens must be of type int, not 'many'"),
        (request_line(1, max_tokens=2.5), "max_tokens must be of type int, not 2.5"),
        (request_line(1, seed=True), "seed must be of type int, not True"),
        (request_line(1, temperature="hot"), "temperature must be of type int or float"),
        (request_line(1, stop=[1]), "stop must be texts, not [1]"),
        (request_line(1, n=2), "n=2 is not supported"),
        (request_line(1, tools=[{"type": "function"}]), "tools=[{'type': 'function'}] is not"),
        (request_line(1, response_format={"type": "json_object"}), "response_format="),
        (request_line(1, presence_penalty=0.5), "presence_penalty=0.5 is not supported"),
    ],
)
def test_a_line_that_cannot_be_asked_says_why(line: Any, told: str) -> None:
    found = question(line)
    assert told in found.fault
    assert found.number == 3
    assert found.id  # a line has an id of its own, so that it is found again


def test_lines_without_an_id_are_told_apart_by_place_and_content() -> None:
    ids = [question({"prompt": p}, n).id for p in ("a", "b") for n in (1, 2)]
    assert len(set(ids)) == 4
    assert ids[0].startswith("line-1-")


def test_the_same_line_written_otherwise_is_the_same_question() -> None:
    a = question(b'{"custom_id": "a", "prompt": "x", "seed": 1}')
    b = question(b'{"seed":1,  "prompt":"\\u0078","custom_id":"a"}')
    c = question(b'{"custom_id": "a", "prompt": "y", "seed": 1}')
    assert a.digest == b.digest != c.digest
