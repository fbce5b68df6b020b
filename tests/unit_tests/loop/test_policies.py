"""Policies decide by plain data; one's own is a small class."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ChatArbitrage,
    Decision,
    DraftConfidence,
    Policy,
    Random,
    ScorerRequest,
    StepText,
    StepView,
    create_arbitrage_graph,
)
from langgraph_arbitrage.engine import ScoreOutput
from langgraph_arbitrage.errors import EngineError, SettingsError
from tiny import QUESTIONS, generate, make, pair, prompt

Chat = Callable[..., ChatArbitrage]
NOTHING: tuple[ScoreOutput, ...] = ()


def view(logprobs: Sequence[float] = (), index: int = 0, question: str = "q") -> StepView:
    step = StepText("So 7.", len(logprobs), tuple(logprobs))
    return StepView(question, (None,) * index, seed=0, draft=step)  # type: ignore[arg-type]


def figures(message: Any) -> dict[str, Any]:
    return message.response_metadata["arbitrage"]


def test_confidence_escalates_below_its_threshold_and_not_at_it() -> None:
    policy = DraftConfidence(0.5)
    assert policy.score(view([-0.6931471805599453] * 3), NOTHING) == pytest.approx(0.5)
    assert [policy.escalates(s) for s in (0.49, 0.5, 0.51)] == [True, False, False]
    assert not DraftConfidence(0.0).escalates(0.0)


def test_confidence_is_a_mean_of_probabilities_not_of_their_logarithms() -> None:
    assert DraftConfidence().score(view([0.0, -100.0]), NOTHING) == pytest.approx(0.5)


def test_random_escalates_at_its_rate_whatever_the_step_says() -> None:
    for rate in (0.0, 0.2, 0.7, 1.0):
        policy = Random(rate, seed=3)
        drawn = [policy.decide(view(index=i), NOTHING).escalate for i in range(2000)]
        assert sum(drawn) / 2000 == pytest.approx(rate, abs=0.04)


def test_random_decides_again_as_before_and_otherwise_with_another_seed_or_question() -> None:
    def drawn(seed: int, question: str = "q") -> list[float | None]:
        return [
            Random(0.5, seed).score(view(index=i, question=question), NOTHING) for i in range(9)
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, "another")


def test_the_two_ends_of_the_scale() -> None:
    assert not AlwaysDraft().decide(view(), NOTHING).escalate
    assert AlwaysTarget().decide(view(), NOTHING).escalate
    for policy in (AlwaysDraft(), AlwaysTarget()):
        with pytest.raises(SettingsError, match=f"{type(policy).__name__} has no threshold"):
            policy.with_threshold(0.5)


# --- one's own ---------------------------------------------------------------------------


@dataclass(frozen=True)
class LongSteps(Policy):
    """Escalates iff the draft's step has more than `limit` characters."""

    threshold_field: ClassVar[str | None] = "limit"
    limit: float = 12

    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> float:
        assert view.target is None
        return len(view.draft.text)

    def escalates(self, score: float | None) -> bool:
        return score > self.limit


def test_a_policy_of_ones_own_decides(chat: Chat) -> None:
    llm = chat(router=LongSteps(), max_tokens=80)
    steps = figures(llm.invoke(QUESTIONS[0]))["steps"]
    assert {s["writer"] for s in steps} == {"draft", "target"}
    for step in steps:
        assert (step["writer"] == "target") == (step["score"] > 12)
        if step["writer"] == "draft" and step is not steps[-1]:
            assert len(step["text"]) == step["score"]
    assert figures(llm.invoke(QUESTIONS[0], threshold=10**6))["escalation_rate"] == 0
    assert figures(llm.invoke(QUESTIONS[0], threshold=-1))["escalation_rate"] == 1


@dataclass(frozen=True)
class ShorterWins(Policy):
    """Takes the target's step iff it is shorter: it needs both."""

    needs_target_step: ClassVar[bool] = True

    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> float:
        return len(view.draft.text) - len(view.target.text)

    def escalates(self, score: float | None) -> bool:
        return score > 0


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke"])
async def test_a_policy_may_compare_both_steps(how: str, chat: Chat) -> None:
    llm = chat(router=ShorterWins(), max_tokens=60)
    if how == "stream":
        message = None
        for chunk in llm.stream(QUESTIONS[0]):
            message = chunk if message is None else message + chunk
    else:
        message = llm.invoke(QUESTIONS[0]) if how == "invoke" else await llm.ainvoke(QUESTIONS[0])
    found = figures(message)
    assert {s["writer"] for s in found["steps"]} == {"draft", "target"}
    assert all((s["writer"] == "target") == (s["score"] > 0) for s in found["steps"])
    assert found["discarded_tokens"] > 0
    assert "".join(s["text"] for s in found["steps"]) == message.text


def test_both_steps_are_written_from_the_same_prefix() -> None:
    models = pair(endless=True)
    graph = create_arbitrage_graph(
        **models, router=ShorterWins(), separator=" ", max_tokens=40
    ).compile()
    pending = [
        update["regenerate"]["target_step"]["ids"]
        for update in graph.stream(
            {"messages": [("user", QUESTIONS[0])]}, {"recursion_limit": 500}, stream_mode="updates"
        )
        if "regenerate" in update
    ]
    state = graph.invoke({"messages": [("user", QUESTIONS[0])]}, {"recursion_limit": 500})
    ids = prompt(QUESTIONS[0])
    for step, target in zip(state["steps"], pending, strict=True):
        assert target == generate(models["target"], ids, len(target))
        ids = ids + step["ids"]


@dataclass(frozen=True)
class FromTheSecond(Policy):
    """Leaves the draft out where it knows beforehand that the target will write."""

    def skips_draft(self, view: StepView) -> bool:
        return view.index >= 1

    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> None:
        return None

    def escalates(self, score: float | None) -> bool:
        return False


def test_a_policy_may_leave_the_draft_out(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=FromTheSecond(), max_steps=4, max_step_tokens=5)
    llm.invoke("Warm up.")
    fed.clear()
    found = figures(llm.invoke(QUESTIONS[0]))
    assert [s["writer"] for s in found["steps"]] == ["draft", *["target"] * 3]
    assert found["discarded_tokens"] == 0
    assert fed[2] <= len(prompt(QUESTIONS[0])) + 5


@dataclass(frozen=True)
class Judged(Policy):
    """Asks a classifier: the probability of its label 1; remembers what it said."""

    model: str = ""
    kind: str = "token-classification"
    threshold: float = 0.5

    def scorer_requests(self, view: StepView) -> list[ScorerRequest]:
        past = [f"{s.writer[0]}: {s.text}" for s in view.history]
        return [
            ScorerRequest(
                self.model, (view.question + "\n", *past, "d: " + view.draft.text), self.kind
            )
        ]

    def decide(self, view: StepView, answers: Sequence[ScoreOutput]) -> Decision:
        assert [len(s.policy_state) for s in view.history] == [2] * view.index
        (reading,) = answers
        score = self.score(view, answers)
        return Decision(score, self.escalates(score), policy_state=tuple(reading.logits))

    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> float:
        import torch

        return torch.tensor(answers[0].logits).softmax(-1)[1].item()

    def escalates(self, score: float | None) -> bool:
        return score > self.threshold


@pytest.mark.parametrize("kind", ["sequence-classification", "token-classification"])
async def test_a_policy_may_ask_a_classifier(kind: str, chat: Chat, fed: Counter[int]) -> None:
    scorer = make("llama", head=kind, num_hidden_layers=4, num_labels=2)
    llm = chat(router=Judged(scorer, kind), max_tokens=60, max_step_tokens=8)
    llm.invoke("Warm up.")
    fed.clear()
    found = figures(llm.invoke(QUESTIONS[0]))
    steps = found["steps"]
    assert all((s["writer"] == "target") == (s["score"] > 0.5) for s in steps)
    assert len({round(s["score"], 3) for s in steps}) > 1
    assert found["computed_tokens"]["router"] == fed[4]
    assert fed[4] < 400  # the text is read once, not again at each step
    again = await llm.ainvoke(QUESTIONS[0])
    assert [s["score"] for s in figures(again)["steps"]] == pytest.approx(
        [s["score"] for s in steps], abs=1e-4
    )


@dataclass(frozen=True)
class Broken(Policy):
    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> float:
        raise ZeroDivisionError("a policy's own mistake")

    def escalates(self, score: float | None) -> bool:
        return False


async def test_a_policys_own_error_reaches_the_caller(chat: Chat) -> None:
    llm = chat(router=Broken(), max_tokens=20)
    with pytest.raises(ZeroDivisionError, match="own mistake"):
        llm.invoke(QUESTIONS[0])
    with pytest.raises(ZeroDivisionError, match="own mistake"):
        await llm.ainvoke(QUESTIONS[0])
    with pytest.raises(ZeroDivisionError, match="own mistake"):
        list(llm.stream(QUESTIONS[0]))


async def test_a_failing_model_is_named_to_the_caller(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    llm = chat(router=AlwaysTarget(), max_tokens=20)
    want = llm.invoke(QUESTIONS[0]).text
    forward = LlamaForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise RuntimeError("the device is gone")

    async def call(how: str) -> str:
        answer = llm.invoke(QUESTIONS[0]) if how == "sync" else await llm.ainvoke(QUESTIONS[0])
        return answer.text

    for how in ("sync", "async"):
        monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
        with pytest.raises(EngineError, match=r"llama-1.* failed: RuntimeError: the device is"):
            await call(how)
        assert await call(how) == want
