"""The tokenizer and the chat template of the embedded models."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from langgraph_arbitrage import embedded

FOLDERS = (embedded.DRAFT, embedded.TARGET)
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "tea"}}}


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.TARGET)


def test_all_models_share_one_tokenizer() -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        assert len({(Path(folder) / name).read_text() for folder in FOLDERS}) == 1


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_decoding_restores_any_text(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text, add_special_tokens=False)) == text


def test_digits_are_single_tokens() -> None:
    assert tokenizer().tokenize("1234567890") == list("1234567890")
    assert [t for t in tokenizer().tokenize("has 347 + 28.") if t.isdigit()] == list("34728")


@pytest.mark.parametrize(
    "text",
    ["\n\n", "Model 0: ", "Model 1: ", "<tool_call>", "</tool_call>", "<think>", "</think>"],
)
def test_markers_are_one_token_and_part_of_the_decoded_text(text: str) -> None:
    ids = tokenizer().encode(text, add_special_tokens=False)
    assert len(ids) == 1
    assert tokenizer().decode(ids, skip_special_tokens=True) == text


def test_a_question_has_fewer_than_60_tokens_on_average() -> None:
    questions = [p.question for p in embedded.problems(200, seed=0)]
    tokens = [len(tokenizer().encode(q, add_special_tokens=False)) for q in questions]
    assert sum(tokens) / len(tokens) < 60


@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief.\n"}]])
@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": " One.\n\nTwo, \\boxed{2}. "},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
    ],
)
@pytest.mark.parametrize(
    "after", [{"role": "user", "content": "And then?"}, {"role": "tool", "content": "hot"}]
)
def test_the_prompt_of_a_second_turn_begins_with_the_first_prompt_and_answer(
    tools: list[dict[str, Any]] | None,
    system: list[dict[str, str]],
    answer: dict[str, Any],
    after: dict[str, str],
) -> None:
    history = [*system, {"role": "user", "content": " How many? "}]

    def ids(messages: list[dict[str, Any]], prompt: bool) -> list[int]:
        text = tokenizer().apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, tokenize=False
        )
        return list(tokenizer().encode(text, add_special_tokens=False))

    calls = "\n".join(
        f"<tool_call>{json.dumps({'name': 'look_up', 'arguments': {'word': 'tea'}})}</tool_call>"
        for _ in answer.get("tool_calls", ())
    )
    text = "\n".join(part for part in (answer["content"], calls) if part)
    answer_ids = [*tokenizer().encode(text, add_special_tokens=False), tokenizer().eos_token_id]
    first = ids(history, True)
    second = ids([*history, answer, after], True)
    assert second[: len(first) + len(answer_ids)] == first + answer_ids


def test_tools_and_their_results_are_in_the_prompt() -> None:
    messages = [
        {"role": "user", "content": "tea?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "hot"},
    ]
    text = tokenizer().apply_chat_template(messages, tools=[TOOL], tokenize=False)
    assert "Looks a word up." in text
    assert "<|tool|>hot<eos>" in text
