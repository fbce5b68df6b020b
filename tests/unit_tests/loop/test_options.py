"""Policy wrappers: budget, first steps and repeated steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    Budget,
    ChatArbitrage,
    Context,
    DraftConfidence,
    EscalateRepeats,
    FirstSteps,
    Oracle,
    PastStep,
    Policy,
    Random,
    StepText,
    StepView,
    TargetLikelihood,
    create_arbitrage_graph,
)
from langgraph_arbitrage.errors import SettingsError
from prms import trl
from tiny import QUESTIONS, pair, prompt

Chat = Callable[..., ChatArbitrage]
ESCALATE = DraftConfidence(1.0)  # escalates almost every step


def view(writers: str = "", draft: str = "So 7.", tokens: int = 4) -> StepView:
    """Build a view after steps by these writers: `d` for draft, `t` for target."""
    names = {"d": "draft", "t": "target"}
    past = tuple(PastStep(names[w], f"Step {i}.\n\n", tokens) for i, w in enumerate(writers))  # type: ignore[arg-type]
    return StepView("q", past, seed=0, draft=StepText(draft, 2, (-0.5, -0.5)))


def writers(message: Any) -> str:
    """Return the first letter of each step's writer."""
    steps: Sequence[dict[str, Any]] = message.response_metadata["arbitrage"]["steps"]
    return "".join(s["writer"][0] for s in steps)


# --- rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "before", "escalates"),
    [
        (0.5, "", False),
        (0.5, "d", True),  # 1 of 2
        (0.5, "t", False),
        (0.5, "dt", False),  # would be 2 of 3
        (0.5, "dtd", True),
        (0.1, "d" * 8, False),
        (0.1, "d" * 9, True),
        (0.3, "dddtd", False),
        (0.3, "dddtdd", True),
        (0.29, "d" * 70 + "t" * 28, False),
        (0.29, "d" * 71 + "t" * 28, True),  # 29 of 100; 0.29 * 100 < 29 in floating point
        (0.0, "d" * 50, False),
        (1.0, "t" * 5, True),
    ],
)
def test_the_share_holds_after_any_number_of_steps(
    share: float, before: str, escalates: bool
) -> None:
    assert Budget(ESCALATE, share).decide(view(before), ()).escalate is escalates


@pytest.mark.parametrize(
    ("tokens", "before", "left"), [(10, "t", 6), (8, "tdt", 0), (8, "ddd", 8), (9, "tt", 1)]
)
def test_the_budget_counts_tokens_of_the_target(tokens: int, before: str, left: int) -> None:
    policy = Budget(ESCALATE, tokens=tokens)
    assert policy.tokens_left(view(before)) == left
    assert policy.decide(view(before), ()).escalate is (left > 0)
    assert Budget(policy, tokens=3).tokens_left(view("d")) == 3


def test_a_step_accepted_because_of_the_budget_is_not_scored() -> None:
    policy = Budget(Oracle(trl()), 0.5)
    assert policy.scorer_requests(view("t")) == ()
    assert policy.decide(view("t"), ()).score is None


@pytest.mark.parametrize(
    ("draft", "escalates"),
    [("Step 1.", True), (" Step\n1. ", True), ("Step 3.", False), ("step 1.", False)],
)
def test_a_repeated_step_escalates_regardless_of_whitespace(draft: str, escalates: bool) -> None:
    policy = EscalateRepeats(DraftConfidence(0.0))
    decision = policy.decide(view("dtd", draft), ())
    assert decision.escalate is escalates
    assert (decision.score is None) is escalates


def test_the_first_steps_skip_the_draft() -> None:
    policy = FirstSteps(ESCALATE, 2)
    assert [policy.skips_draft(view("t" * n)) for n in range(4)] == [True, True, False, False]
    assert not FirstSteps(ESCALATE, 0).skips_draft(view())


def test_the_outermost_wrapper_takes_precedence() -> None:
    assert not Budget(FirstSteps(ESCALATE, 2), 0.5).skips_draft(view())
    assert FirstSteps(Budget(ESCALATE, 0.5), 2).skips_draft(view())
    assert not Budget(EscalateRepeats(ESCALATE), 0.0).decide(view("d", "Step 0."), ()).escalate
    assert EscalateRepeats(Budget(ESCALATE, 0.0)).decide(view("d", "Step 0."), ()).escalate
    assert FirstSteps(Budget(ESCALATE, tokens=2), 3).tokens_left(view("t")) is None


def test_a_wrapper_shows_its_policy_and_passes_on_the_threshold() -> None:
    policy = Budget(EscalateRepeats(Random(0.5, seed=3)), share=0.2)
    assert repr(policy) == (
        "Budget(policy=EscalateRepeats(policy=Random(rate=0.5, seed=3)), share=0.2, tokens=None)"
    )
    assert policy.with_threshold(0.7) == Budget(EscalateRepeats(Random(0.7, seed=3)), share=0.2)
    with pytest.raises(SettingsError, match="AlwaysDraft has no threshold"):
        FirstSteps(AlwaysDraft()).with_threshold(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(ESCALATE, 1.5), "share of Budget must be a number from 0 to 1, not 1.5"),
        (lambda: Budget(ESCALATE, -0.1), "share of Budget must be a number from 0 to 1"),
        (lambda: Budget(ESCALATE, tokens=-1), "tokens of Budget must be an integer of 0 or more"),
        (lambda: FirstSteps(ESCALATE, 1.5), "steps of FirstSteps must be an integer"),
    ],
)
def test_a_field_outside_its_range_is_rejected(make: Callable[[], Policy], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()


# --- in the loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [AlwaysTarget(), ESCALATE, Random(0.6, seed=1)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_no_prefix_of_an_answer_exceeds_the_share(policy: Policy, share: float, chat: Chat) -> None:
    llm = chat(router=policy, max_target_share=share, max_steps=20, max_step_tokens=4)
    steps = writers(llm.invoke(QUESTIONS[0]))
    assert all(steps[:n].count("t") <= share * n for n in range(1, 21))
    assert (steps.count("t") == share * 20) or isinstance(policy, Random)


@pytest.mark.parametrize("policy", [AlwaysTarget(), ESCALATE, Oracle(trl())])
@pytest.mark.parametrize("tokens", [0, 1, 13, 500])
async def test_the_target_never_exceeds_its_token_budget(
    policy: Policy, tokens: int, chat: Chat
) -> None:
    llm = chat(router=Budget(policy, tokens=tokens), max_steps=12, max_step_tokens=5)
    message = await llm.ainvoke(QUESTIONS[0])
    count = message.response_metadata["arbitrage"]["target_tokens"]
    assert count <= tokens
    assert count == min(tokens, count + 100 * (tokens < 500)) or isinstance(policy, Oracle)
    assert len(writers(message)) == 12


def test_the_draft_generates_no_tokens_in_the_first_steps(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=AlwaysDraft(), first_steps=3, max_steps=5, max_step_tokens=4)
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[5])
    assert writers(message) == "tttdd"
    assert message.response_metadata["arbitrage"]["discarded_tokens"] == 0
    assert fed[2] == len(prompt(QUESTIONS[5])) + message.usage_metadata["output_tokens"] - 1


def test_a_draft_that_repeats_itself_is_escalated(chat: Chat) -> None:
    settings = {**pair(), "separator": " ", "max_steps": 60, "max_step_tokens": 1}
    unwrapped = chat(**settings, router=AlwaysDraft()).invoke(QUESTIONS[0])
    texts = [s["text"] for s in unwrapped.response_metadata["arbitrage"]["steps"]]
    assert len(set(map(str.strip, texts))) < len(texts)
    wrapped = chat(**settings, router=AlwaysDraft(), escalate_repeats=True).invoke(QUESTIONS[0])
    seen: set[str] = set()
    for step in wrapped.response_metadata["arbitrage"]["steps"]:
        if step["writer"] == "draft":
            assert step["text"].strip() not in seen
        seen.add(step["text"].strip())
    assert "t" in writers(wrapped)


def test_settings_wrap_the_policy() -> None:
    llm = ChatArbitrage(
        **pair(),
        router=Random(0.5),
        threshold=0.4,
        first_steps=1,
        escalate_repeats=True,
        max_target_share=0.3,
    )
    assert llm.policy == Budget(FirstSteps(EscalateRepeats(Random(0.4)), 1), 0.3)
    assert ChatArbitrage(**pair()).policy == TargetLikelihood()


def test_wrapper_settings_can_be_set_for_one_run(chat: Chat) -> None:
    llm = chat(router=AlwaysDraft(), max_steps=4, max_step_tokens=3)
    assert writers(llm.invoke(QUESTIONS[0], first_steps=2)) == "ttdd"
    graph = create_arbitrage_graph(llm._models).compile()
    start: Any = {"messages": [("user", QUESTIONS[0])]}
    state = graph.invoke(start, context=Context(first_steps=4, max_target_share=0.5))
    assert writers(state["messages"][-1]) == "dtdt"
    assert writers(llm.invoke(QUESTIONS[0])) == "dddd"
