"""Escalation inside and after thinking, and prefix reuse where templates drop earlier thinking."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ChatArbitrage,
    DraftConfidence,
    LearnedRouter,
    WhileThinking,
)
from langgraph_arbitrage.errors import SettingsError
from tiny import CHAT_TEMPLATE, QUESTIONS, pair

Chat = Callable[..., ChatArbitrage]
# The template opens the thinking, and the content of earlier answers has no thinking.
TEMPLATE = CHAT_TEMPLATE.replace("<assistant>{% endif %}", "<assistant><think>\n{% endif %}")
SETTINGS: dict[str, Any] = {
    **pair(endless=True, words=True, template=TEMPLATE),
    "separator": (".", "\n"),
    "min_step_tokens": 1,
    "max_step_tokens": 6,
    "max_tokens": 60,
    "max_thinking_tokens": 20,
}
ACCEPT, ESCALATE = DraftConfidence(0.0), DraftConfidence(1.0)


def writers(message: Any) -> tuple[set[str], set[str]]:
    """Return the writers of the steps inside and after the thinking."""
    steps = message.response_metadata["arbitrage"]["steps"]
    texts = [step["text"] for step in steps]
    last = next(i for i, text in enumerate(texts) if "</think>" in text)
    names = [step["writer"] for step in steps]
    return set(names[: last + 1]), set(names[last + 1 :])


@pytest.mark.parametrize(
    ("settings", "inside", "after"),
    [
        ({"router": ACCEPT}, "draft", "draft"),
        ({"router": ACCEPT, "thinking_threshold": 1.0}, "target", "draft"),
        ({"router": ESCALATE, "thinking_threshold": 0.0}, "draft", "target"),
        ({"router": WhileThinking(AlwaysTarget(), thinking=AlwaysDraft())}, "draft", "target"),
    ],
)
def test_thinking_can_have_a_threshold_of_its_own(
    settings: dict[str, Any], inside: str, after: str, chat: Chat
) -> None:
    message = chat(**SETTINGS, **settings).invoke(QUESTIONS[0])
    assert writers(message) == ({inside}, {after})


def test_the_threshold_can_be_set_per_call(chat: Chat) -> None:
    llm = chat(**SETTINGS, router=ACCEPT)
    assert writers(llm.invoke(QUESTIONS[0], thinking_threshold=1.0)) == ({"target"}, {"draft"})
    assert writers(llm.invoke(QUESTIONS[0])) == ({"draft"}, {"draft"})


@pytest.mark.parametrize("value", [1.5, "rate:0.3"])
def test_an_invalid_threshold_is_refused(value: Any, chat: Chat) -> None:
    with pytest.raises(SettingsError, match="threshold"):
        chat(**SETTINGS, router=ACCEPT, thinking_threshold=value).invoke("Tell me.")


def test_scorers_of_both_policies_are_checked() -> None:
    policy = WhileThinking(DraftConfidence(), thinking=LearnedRouter("embedded:router", 0.5))
    assert policy.scorers() == policy.thinking.scorers()
    with pytest.raises(SettingsError, match="was trained for"):
        policy.validate_pair("a", "b")


@pytest.mark.parametrize("policy", [AlwaysDraft(), AlwaysTarget()])
def test_the_next_turn_computes_only_the_answer_and_the_new_question(
    policy: Any, chat: Chat, fed: Counter[int]
) -> None:
    """The prompt of the first turn stays cached, although its thinking is dropped."""
    llm = chat(**{**SETTINGS, "router": policy})
    llm.invoke("Warm up.")
    question = QUESTIONS[3] * 3
    first = llm.invoke(question)
    assert "think" not in first.text
    cached = first.usage_metadata["input_tokens"]
    assert cached > 50
    fed.clear()
    second = llm.invoke([HumanMessage(question), first, HumanMessage("And?")], max_tokens=10)
    usage = second.usage_metadata
    assert usage["input_token_details"]["cache_read"] >= cached - 8
    assert max(fed.values()) <= usage["total_tokens"] - cached + 8
