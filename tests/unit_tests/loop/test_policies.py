"""Built-in policies without a scorer, and custom policies in the loop."""

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
NO_OUTPUTS: tuple[ScoreOutput, ...] = ()


def view(logprobs: Sequence[float] = (), index: int = 0, question: str = "q") -> StepView:
    step = StepText("So 7.", len(logprobs), tuple(logprobs))
    return StepView(question, (None,) * index, seed=0, draft=step)  # type: ignore[arg-type]


def statistics(message: Any) -> dict[str, Any]:
    return message.response_metadata["arbitrage"]


def test_confidence_escalates_below_its_threshold() -> None:
    policy = DraftConfidence(0.5)
    assert policy.score(view([-0.6931471805599453] * 3), NO_OUTPUTS) == pytest.approx(0.5)
    assert [policy.escalates(s) for s in (0.49, 0.5, 0.51)] == [True, False, False]
    assert not DraftConfidence(0.0).escalates(0.0)


def test_confidence_is_the_mean_of_probabilities_not_of_log_probabilities() -> None:
    assert DraftConfidence().score(view([0.0, -100.0]), NO_OUTPUTS) == pytest.approx(0.5)


def test_random_escalates_at_its_rate() -> None:
    for rate in (0.0, 0.2, 0.7, 1.0):
        policy = Random(rate, seed=3)
        escalated = [policy.decide(view(index=i), NO_OUTPUTS).escalate for i in range(2000)]
        assert sum(escalated) / 2000 == pytest.approx(rate, abs=0.04)


def test_random_draws_depend_on_seed_and_question_only() -> None:
    def draws(seed: int, question: str = "q") -> list[float | None]:
        return [
            Random(0.5, seed).score(view(index=i, question=question), NO_OUTPUTS) for i in range(9)
        ]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(1) != draws(1, "another")


def test_the_baselines_always_use_one_model_and_have_no_threshold() -> None:
    assert not AlwaysDraft().decide(view(), NO_OUTPUTS).escalate
    assert AlwaysTarget().decide(view(), NO_OUTPUTS).escalate
    for policy in (AlwaysDraft(), AlwaysTarget()):
        with pytest.raises(SettingsError, match=f"{type(policy).__name__} has no threshold"):
            policy.with_threshold(0.5)


# --- custom policies ---------------------------------------------------------------------


@dataclass(frozen=True)
class LongSteps(Policy):
    """Escalates if the draft step has more than `limit` characters."""

    threshold_field: ClassVar[str | None] = "limit"
    limit: float = 12

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        assert view.target is None
        return len(view.draft.text)

    def escalates(self, score: float | None) -> bool:
        return score > self.limit


def test_a_custom_policy_decides(chat: Chat) -> None:
    llm = chat(router=LongSteps(), max_tokens=80)
    steps = statistics(llm.invoke(QUESTIONS[0]))["steps"]
    assert {s["writer"] for s in steps} == {"draft", "target"}
    for step in steps:
        assert (step["writer"] == "target") == (step["score"] > 12)
        if step["writer"] == "draft" and step is not steps[-1]:
            assert len(step["text"]) == step["score"]
    assert statistics(llm.invoke(QUESTIONS[0], threshold=10**6))["escalation_rate"] == 0
    assert statistics(llm.invoke(QUESTIONS[0], threshold=-1))["escalation_rate"] == 1


@dataclass(frozen=True)
class ShorterWins(Policy):
    """Selects the target's step if it is shorter than the draft's."""

    needs_target_step: ClassVar[bool] = True

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        return len(view.draft.text) - len(view.target.text)

    def escalates(self, score: float | None) -> bool:
        return score > 0


@pytest.mark.parametrize("method", ["invoke", "stream", "ainvoke"])
async def test_a_policy_can_compare_both_steps(method: str, chat: Chat) -> None:
    llm = chat(router=ShorterWins(), max_tokens=60)
    if method == "stream":
        message = None
        for chunk in llm.stream(QUESTIONS[0]):
            message = chunk if message is None else message + chunk
    else:
        invoked = method == "invoke"
        message = llm.invoke(QUESTIONS[0]) if invoked else await llm.ainvoke(QUESTIONS[0])
    stats = statistics(message)
    assert {s["writer"] for s in stats["steps"]} == {"draft", "target"}
    assert all((s["writer"] == "target") == (s["score"] > 0) for s in stats["steps"])
    assert stats["discarded_tokens"] > 0
    assert "".join(s["text"] for s in stats["steps"]) == message.text


def test_both_steps_are_generated_from_the_same_prefix() -> None:
    models = pair(endless=True)
    graph = create_arbitrage_graph(
        **models, router=ShorterWins(), separator=" ", min_step_tokens=1, max_tokens=40
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
class TargetAfterFirst(Policy):
    """Skips the draft from the second step on."""

    def skips_draft(self, view: StepView) -> bool:
        return view.index >= 1

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> None:
        return None

    def escalates(self, score: float | None) -> bool:
        return False


def test_a_policy_can_skip_the_draft(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=TargetAfterFirst(), max_steps=4, max_step_tokens=5)
    llm.invoke("Warm up.")
    fed.clear()
    stats = statistics(llm.invoke(QUESTIONS[0]))
    assert [s["writer"] for s in stats["steps"]] == ["draft", *["target"] * 3]
    assert stats["discarded_tokens"] == 0
    assert fed[2] <= len(prompt(QUESTIONS[0])) + 5


@dataclass(frozen=True)
class Classified(Policy):
    """Scores steps with a classifier: probability of label 1. Stores the logits."""

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

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        assert [len(s.policy_state) for s in view.history] == [2] * view.index
        (output,) = outputs
        score = self.score(view, outputs)
        return Decision(score, self.escalates(score), policy_state=tuple(output.logits))

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        import torch

        return torch.tensor(outputs[0].logits).softmax(-1)[1].item()

    def escalates(self, score: float | None) -> bool:
        return score > self.threshold


@pytest.mark.parametrize("kind", ["sequence-classification", "token-classification"])
async def test_a_policy_can_use_a_classifier(kind: str, chat: Chat, fed: Counter[int]) -> None:
    scorer = make("llama", head=kind, num_hidden_layers=4, num_labels=2)
    llm = chat(router=Classified(scorer, kind), max_tokens=60, max_step_tokens=8)
    llm.invoke("Warm up.")
    fed.clear()
    stats = statistics(llm.invoke(QUESTIONS[0]))
    steps = stats["steps"]
    assert all((s["writer"] == "target") == (s["score"] > 0.5) for s in steps)
    assert len({round(s["score"], 3) for s in steps}) > 1
    assert stats["computed_tokens"]["router"] == fed[4]
    assert fed[4] < 400  # the text is computed once, not again at each step
    again = await llm.ainvoke(QUESTIONS[0])
    assert [s["score"] for s in statistics(again)["steps"]] == pytest.approx(
        [s["score"] for s in steps], abs=1e-4
    )


@dataclass(frozen=True)
class Broken(Policy):
    """Raises an error."""

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        raise ZeroDivisionError("an error in a policy")

    def escalates(self, score: float | None) -> bool:
        return False


async def test_an_error_in_a_policy_reaches_the_caller(chat: Chat) -> None:
    llm = chat(router=Broken(), max_tokens=20)
    with pytest.raises(ZeroDivisionError, match="error in a policy"):
        llm.invoke(QUESTIONS[0])
    with pytest.raises(ZeroDivisionError, match="error in a policy"):
        await llm.ainvoke(QUESTIONS[0])
    with pytest.raises(ZeroDivisionError, match="error in a policy"):
        list(llm.stream(QUESTIONS[0]))


async def test_the_error_of_a_failing_model_names_the_model(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    llm = chat(router=AlwaysTarget(), max_tokens=20)
    expected = llm.invoke(QUESTIONS[0]).text
    forward = LlamaForCausalLM.forward

    def fail_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise RuntimeError("the device is gone")

    async def call(mode: str) -> str:
        answer = llm.invoke(QUESTIONS[0]) if mode == "sync" else await llm.ainvoke(QUESTIONS[0])
        return answer.text

    for mode in ("sync", "async"):
        monkeypatch.setattr(LlamaForCausalLM, "forward", fail_once)
        with pytest.raises(EngineError, match=r"llama-1.* failed: RuntimeError: the device is"):
            await call(mode)
        assert await call(mode) == expected
