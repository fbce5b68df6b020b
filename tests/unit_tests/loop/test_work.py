"""Nothing is read twice: tokens fed through the models, counted on the models themselves.

Where exact counts are promised, the draft guesses nothing inside of the target's steps: whether it
does is a matter of measured costs.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, Random
from tiny import QUESTIONS, pair, prompt

Chat = Callable[..., ChatArbitrage]
DRAFT, TARGET = 2, 3  # layers
WORDY: dict[str, Any] = {
    "separator": (".", "\n"),
    "min_step_tokens": 1,
    **pair(endless=True, words=True),
}


@pytest.mark.parametrize("steps", [5, 60])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_each_model_is_fed_each_token_about_once(
    steps: int, rate: float, chat: Chat, fed: Counter[int]
) -> None:
    llm = chat(router=Random(rate), max_steps=steps, max_step_tokens=5)
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[0])
    figures = message.response_metadata["arbitrage"]
    assert len(figures["steps"]) == steps
    read = message.usage_metadata["total_tokens"]
    written = read + figures["discarded_tokens"]
    assert fed[DRAFT] <= 1.1 * written
    assert fed[TARGET] <= 1.1 * written * (rate > 0)  # it reads the steps that it then rewrites
    assert figures["computed_tokens"] == {"draft": fed[DRAFT], "target": fed[TARGET], "router": 0}


def test_always_draft_feeds_the_target_nothing(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=AlwaysDraft(), max_tokens=60)
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[0])
    assert set(fed) == {DRAFT}
    assert fed[DRAFT] < 1.1 * message.usage_metadata["total_tokens"]


def test_always_target_feeds_the_draft_nothing(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=AlwaysTarget(), max_tokens=60)
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[0])
    assert set(fed) == {TARGET}
    assert fed[TARGET] < 1.1 * message.usage_metadata["total_tokens"]


@pytest.mark.parametrize("policy", [AlwaysDraft(), AlwaysTarget(), Random(0.5)])
def test_the_second_turn_of_a_chat_feeds_only_what_is_new(
    policy: Any, chat: Chat, fed: Counter[int]
) -> None:
    """Where the template keeps the history as it was."""
    llm = chat(**WORDY, router=policy, max_tokens=120)
    llm.invoke("Warm up.")
    first = llm.invoke(QUESTIONS[0])
    history = [HumanMessage(QUESTIONS[0]), AIMessage(first.text), HumanMessage("And now?")]
    before = first.usage_metadata["total_tokens"]
    assert before > 100
    fed.clear()
    second = llm.invoke(history, max_tokens=10)
    new = second.usage_metadata["total_tokens"] - before
    assert new < 40
    discarded = second.response_metadata["arbitrage"]["discarded_tokens"]
    assert max(fed.values()) <= new + discarded + 12
    assert second.usage_metadata["input_token_details"]["cache_read"] >= before - 12


def test_what_the_target_keeps_of_the_drafts_steps_is_counted(chat: Chat) -> None:
    """A draft that is the target writes what the target would, so that all is kept."""
    path = WORDY["target"]
    own = {**WORDY, "draft": path, "target": path}
    llm = chat(**own, router=Random(0.5), max_tokens=80)
    figures = llm.invoke(QUESTIONS[0]).response_metadata["arbitrage"]
    assert (
        0
        < figures["accepted_draft_tokens"]
        == figures["target_tokens"]
        == figures["discarded_tokens"]
    )
    for step in figures["steps"]:
        assert step["accepted_draft_tokens"] == step["tokens"] * (step["writer"] == "target")


@pytest.mark.parametrize(
    "draft", [WORDY["draft"], WORDY["target"]], ids=["another draft", "the target itself"]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_escalating_every_step_writes_what_the_target_writes_alone(
    temperature: float, draft: str, chat: Chat
) -> None:
    sampling = {"temperature": temperature, "top_k": 3, "seed": 2}
    settings = {**WORDY, "draft": draft, "max_tokens": 60, **sampling}
    alone = chat(**settings, router=AlwaysTarget())
    verified = chat(**settings, router=Random(1.0))
    messages = [verified.invoke(q) for q in QUESTIONS[:4]]
    assert [m.text for m in messages] == [alone.invoke(q).text for q in QUESTIONS[:4]]
    if draft == WORDY["target"]:
        assert sum(m.response_metadata["arbitrage"]["accepted_draft_tokens"] for m in messages) > 0


def test_an_escalation_reads_the_prompt_once_in_the_target(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=Random(0.1, seed=8), max_steps=20, max_step_tokens=6)
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[3])
    written = [s["writer"] for s in message.response_metadata["arbitrage"]["steps"]]
    assert 1 <= written.count("target") <= 5
    assert fed[TARGET] <= len(prompt(QUESTIONS[3])) + 20 * 6
