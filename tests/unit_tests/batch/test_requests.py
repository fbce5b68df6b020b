"""Parsing of input lines into requests."""

import json
from typing import Any

import pytest

from batch_lines import request_line
from langgraph_arbitrage.batch.request import BatchRequest, parse_request

HELLO = [{"role": "user", "content": "Hello!"}]


def parse(line: Any, number: int = 3) -> BatchRequest:
    return parse_request(number, line if isinstance(line, bytes) else json.dumps(line).encode())


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ({"messages": HELLO}, HELLO),
        ({"prompt": "Hello!"}, HELLO),
        ({"prompt": "Hello!", "messages": None}, HELLO),
        ({"custom_id": "a", "body": {"messages": HELLO}}, HELLO),
    ],
)
def test_every_format_of_a_line_is_parsed(line: Any, messages: Any) -> None:
    request = parse(line)
    assert (request.error, request.messages) == (None, messages)


def test_body_fields_override_settings() -> None:
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
        "min_p": 0.1,
        "min_step_tokens": 2,
        "stop_token_ids": [7],
        "chat_template_kwargs": {"enable_thinking": False},
        "draft_chat_template_kwargs": {"enable_thinking": True},
        "continue_final_message": True,
        "special_tokens_in_text": "refuse",
        "user": "me",
        "stream": False,
        "n": 1,
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "top_logprobs": None,
    }
    request = parse(request_line(1, **body))
    assert request.error is None
    assert request.custom_id == "q1"
    assert request.options == {
        "max_tokens": 5,
        **{name: body[name] for name in list(body)[1:17]},
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "not valid JSON: Expecting value"),
        (b'{"prompt": "x"', "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        ([1], "must be a JSON object, not [1]"),
        ({}, "neither messages nor a prompt"),
        ({"prompt": "  "}, "prompt must be a non-empty string"),
        ({"prompt": ["a"]}, "prompt must be a non-empty string"),
        ({"messages": []}, "messages must be a non-empty list, not []"),
        ({"messages": "Hi"}, "messages must be a non-empty list, not 'Hi'"),
        ({"body": {"messages": HELLO}}, "custom_id is missing"),
        ({"custom_id": 7, "prompt": "x"}, "custom_id must be a non-empty string, not 7"),
        ({"custom_id": "", "prompt": "x"}, "custom_id must be a non-empty string, not ''"),
        ({"custom_id": "a", "body": 7}, "body must be a JSON object, not 7"),
        (request_line(1) | {"url": "/v1/embeddings"}, "url must be /v1/chat/completions"),
        (request_line(1) | {"method": "GET"}, "method must be POST, not 'GET'"),
        (request_line(1, max_tokens="many"), "max_tokens must be of type int, not 'many'"),
        (request_line(1, max_tokens=2.5), "max_tokens must be of type int, not 2.5"),
        (request_line(1, seed=True), "seed must be of type int, not True"),
        (request_line(1, temperature="hot"), "temperature must be of type int or float"),
        (request_line(1, stop=[1]), "stop must contain only strings, not [1]"),
        (request_line(1, stop_token_ids=["a"]), "stop_token_ids must contain only integers"),
        (request_line(1, stop_token_ids=[True]), "stop_token_ids must contain only integers"),
        (request_line(1, chat_template_kwargs=[1]), "chat_template_kwargs must be of type dict"),
        (request_line(1, continue_final_message=1), "continue_final_message must be of type bool"),
        (request_line(1, n=2), "n=2 is not supported"),
        (request_line(1, tools=[{"type": "function"}]), "tools=[{'type': 'function'}] is not"),
        (request_line(1, response_format={"type": "json_object"}), "response_format="),
        (request_line(1, presence_penalty=0.5), "presence_penalty=0.5 is not supported"),
    ],
)
def test_an_invalid_line_has_an_error(line: Any, message: str) -> None:
    request = parse(line)
    assert message in request.error
    assert request.line_number == 3
    assert request.custom_id  # generated, so that a restarted job finds its record


def test_generated_ids_depend_on_line_number_and_content() -> None:
    ids = [parse({"prompt": p}, n).custom_id for p in ("a", "b") for n in (1, 2)]
    assert len(set(ids)) == 4
    assert ids[0].startswith("line-1-")


def test_whitespace_and_field_order_do_not_change_the_digest() -> None:
    a = parse(b'{"custom_id": "a", "prompt": "x", "seed": 1}')
    b = parse(b'{"seed":1,  "prompt":"\\u0078","custom_id":"a"}')
    c = parse(b'{"custom_id": "a", "prompt": "y", "seed": 1}')
    assert a.digest == b.digest != c.digest
