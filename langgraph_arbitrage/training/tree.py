"""All that is written for a question, under whatever threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.policies import Policy, Writer
from langgraph_arbitrage.state import PendingStep, RouteDecision
from langgraph_arbitrage.training.prefix import Prefix
from langgraph_arbitrage.training.questions import Question
from langgraph_arbitrage.training.verdict import Context, Verdict

__all__ = ["Outcome", "Tree"]


@dataclass
class Outcome:
    """What one threshold did to one question, or to its rows."""

    steps: int = 0
    escalated: int = 0
    wasted: int = 0
    """Escalations whose step of the target scores no better."""
    scores: list[float] = field(default_factory=list)
    """Of the steps that were taken, by the PRM; empty without one."""
    right: bool | None = None
    """Whether the answer is right, where that is known."""
    loss: float = 0.0
    """What the target alone would have gained on this question."""


class Tree:
    """Answers a question under each threshold, writing no step twice: a prefix is a branch.

    Two thresholds that agree so far share all that was written, so that thirty of them cost a few
    runs.

    Args:
        run: The models, and the router as policy; only its threshold is changed.
        question: The question, with its answer if `answers`.
        verdict: Scores the steps that are taken; None leaves the scores empty.
        answers: Whether a loss is one of right answers, else one of step scores.

    Raises:
        ContextLengthError: The question does not fit a model.
    """

    def __init__(
        self, run: Run, question: Question, verdict: Verdict | None, *, answers: bool
    ) -> None:
        self._run = run
        self._question = question
        self._root = Prefix.of(run, question.text)
        self._verdict = verdict
        self._answers = answers
        self._steps: dict[tuple[Writer, int, tuple[int, ...]], PendingStep] = {}
        self._decisions: dict[Context, RouteDecision] = {}

    def scores(self) -> list[float]:
        """ŷ of every draft step so far."""
        return [d["score"] for d in self._decisions.values() if d["score"] is not None]

    async def outcomes(self, thresholds: Sequence[float]) -> list[Outcome]:
        """One outcome a threshold.

        Raises:
            ContextLengthError: An answer has outgrown a model.
        """
        found = [
            await self._outcome(self._run.policy.with_threshold(threshold))
            for threshold in thresholds
        ]
        # Last, for a verdict takes the first step of a context that it hears of for the draft's.
        alone = await self._outcome(None)
        for out in found:
            if self._answers:
                out.loss = float(bool(alone.right)) - float(bool(out.right))
            else:
                out.loss = fmean(alone.scores) - fmean(out.scores)
        return found

    async def _outcome(self, policy: Policy | None) -> Outcome:
        """The loop under a policy; under none, the target alone."""
        out = Outcome()
        prefix = self._root
        while not prefix.finished:
            context = Context(prefix.texts, prefix.tags)
            draft = decision = None
            escalates = True
            if policy is not None:
                draft = await self._written("draft", prefix)
                if context not in self._decisions:
                    self._decisions[context] = await prefix.judged(draft)
                decision = self._decisions[context]
                escalates = policy.escalates(decision["score"])
                decision = {**decision, "escalate": escalates}
            writer: Writer = "target" if escalates else "draft"
            step = await self._written(writer, prefix, draft)
            out.steps += 1
            out.escalated += escalates
            if self._verdict is not None:
                s_d = await self._verdict.value(context, draft["text"]) if draft else -1.0
                score = await self._verdict.value(context, step["text"])
                out.scores.append(score)
                out.wasted += escalates and score <= s_d
            prefix = await prefix.take(writer, step, decision)
        if self._answers:
            out.right = self._question.solved_by(prefix.answer)
        return out

    async def _written(
        self, role: Writer, prefix: Prefix, draft: PendingStep | None = None
    ) -> PendingStep:
        # A model reads the tokens so far and not who wrote them, which is the same text mostly.
        steps = prefix.state["steps"]
        ids = self._run.models.input_ids(role, prefix.state["prompts"], steps)
        key = role, sum(len(s["ids"]) for s in steps), tuple(ids)
        if key not in self._steps:
            self._steps[key] = await prefix.write(role, draft=draft)
        return self._steps[key]
