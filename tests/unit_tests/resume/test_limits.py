"""Budgets of a run: at the limit it ends and says so, or the draft finishes alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from langgraph_arbitrage import (
    AlwaysTarget,
    ArbitrageSettings,
    ChatArbitrage,
    Context,
    Policy,
    Random,
    StepView,
)
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.loop.answer_state import target_tokens
from runs import ASK, SETTINGS, thread
from tiny import QUESTIONS


def by_target(state: Any) -> int:
    return sum(len(s["ids"]) for s in state["steps"] if s["writer"] == "target")


def figures(state: Any) -> dict[str, Any]:
    return state["messages"][-1].response_metadata["arbitrage"]


@pytest.mark.parametrize("router", [Random(0.5, seed=2), AlwaysTarget()])
@pytest.mark.parametrize("budget", [1, 8, 13])
def test_the_target_budget_ends_an_answer_and_says_so(
    budget: int, router: Any, compiled: Any
) -> None:
    state = compiled(router=router, max_target_tokens=budget).invoke(ASK, thread())
    assert by_target(state) == budget
    assert state["finish_reason"] == figures(state)["finish_reason"] == "max_target_tokens"
    assert state["messages"][-1].text
    assert sum(len(s["ids"]) for s in state["steps"]) < SETTINGS["max_tokens"]


@pytest.mark.parametrize("router", [Random(0.5, seed=2), AlwaysTarget()])
def test_or_the_draft_finishes_alone(router: Any, compiled: Any, fed: Counter[int]) -> None:
    graph = compiled(router=router)
    context = Context(max_target_tokens=8, at_limit="draft")
    state = graph.invoke(ASK, thread(), context=context)
    assert by_target(state) == 8
    last = max(i for i, s in enumerate(state["steps"]) if s["writer"] == "target")
    after = state["steps"][last + 1 :]
    assert len(after) > 3
    assert {s["writer"] for s in after} == {"draft"}
    assert all(s["score"] is None and s["discarded_tokens"] == 0 for s in after)
    assert state["finish_reason"] == "length"
    assert figures(state)["limit"] == "max_target_tokens"
    assert sum(len(s["ids"]) for s in state["steps"]) == SETTINGS["max_tokens"]


@dataclass(frozen=True)
class EverySecond(Policy):
    """Takes the target's step every second time, once both are written."""

    needs_target_step: ClassVar[bool] = True

    def score(self, view: StepView, answers: Sequence[Any]) -> float:
        assert view.target is not None
        return view.index % 2

    def escalates(self, score: float | None) -> bool:
        return score == 1


def test_once_the_draft_is_alone_no_step_is_compared(compiled: Any) -> None:
    graph = compiled(router=EverySecond(), max_target_tokens=15, at_limit="draft")
    state = graph.invoke(ASK, thread())
    steps = state["steps"]
    compared = [s["score"] is not None for s in steps]
    assert compared == sorted(compared, reverse=True)
    assert 2 <= sum(compared) < len(steps) - 2
    assert ["target" in s["computed_tokens"] for s in steps] == compared
    assert target_tokens(steps) == 15


@pytest.mark.parametrize("at_limit", ["end", "draft"])
def test_a_budget_of_seconds(at_limit: Any, compiled: Any) -> None:
    graph = compiled(router=AlwaysTarget())
    graph.invoke(ASK, thread("warm"))
    context = Context(max_seconds=1e-6, at_limit=at_limit)
    state = graph.invoke(ASK, thread(), context=context)
    if at_limit == "end":
        assert state["finish_reason"] == "max_seconds"
        assert len(state["steps"]) == 1
    else:
        assert state["finish_reason"] == "length"
        assert figures(state)["limit"] == "max_seconds"
        assert [s["writer"] for s in state["steps"][:3]] == ["target", "draft", "draft"]
    state = graph.invoke(ASK, thread("2"), context=Context(max_seconds=3600, at_limit=at_limit))
    assert state["finish_reason"] == "length"
    assert "limit" not in figures(state)


def test_a_budget_that_is_not_spent_changes_nothing(compiled: Any, unbroken: Any) -> None:
    for at_limit in ("end", "draft"):
        state = compiled(max_target_tokens=1000, at_limit=at_limit).invoke(ASK, thread())
        assert state["messages"][-1].text == unbroken["messages"][-1].text
        assert "limit" not in figures(state)


def test_a_run_that_broke_keeps_to_its_budget(compiled: Any) -> None:
    context = Context(max_target_tokens=8, at_limit="draft")
    want = compiled().invoke(ASK, thread(), context=context)
    graph = compiled()
    stopping = {"interrupt_before": ["commit"], "context": context}
    state = graph.invoke(ASK, thread(), **stopping)
    while graph.get_state(thread()).next:
        state = graph.invoke(None, thread(), **stopping)
    assert [s["ids"] for s in state["steps"]] == [s["ids"] for s in want["steps"]]


def test_the_chat_model_keeps_to_budgets_too() -> None:
    llm = ChatArbitrage(**SETTINGS, max_target_tokens=8)
    assert llm.invoke(QUESTIONS[0]).response_metadata["finish_reason"] == "max_target_tokens"
    whole = llm.invoke(QUESTIONS[0], max_target_tokens=12, at_limit="draft")
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.response_metadata["arbitrage"]["target_tokens"] == 12
    llm.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_target_tokens": 0}, "max_target_tokens must be above 0"),
        ({"max_seconds": -1.0}, "max_seconds must be above 0"),
        ({"at_limit": "stop"}, "at_limit"),
    ],
)
def test_a_limit_out_of_its_range_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        ArbitrageSettings(**settings)


def test_a_limit_of_a_run_out_of_its_range_is_told(compiled: Any) -> None:
    with pytest.raises(SettingsError, match="'end' or 'draft', not 'stop'"):
        compiled().invoke(ASK, thread(), context=Context(at_limit="stop"))
