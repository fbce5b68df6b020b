"""Answer one question under many thresholds. The answers share the steps they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.policies import Policy, Writer
from langgraph_arbitrage.state import PendingStep, RouteDecision
from langgraph_arbitrage.training.prefix import Prefix
from langgraph_arbitrage.training.questions import Question
from langgraph_arbitrage.training.step_grader import StepContext, StepGrader

__all__ = ["AnswerTree", "Outcome"]


@dataclass
class Outcome:
    """Statistics of one question, or of its rows, under one threshold."""

    steps: int = 0
    escalated: int = 0
    wasted: int = 0
    """Number of escalations whose target step does not score better than the draft's."""
    scores: list[float] = field(default_factory=list)
    """PRM scores of the steps in the answer; empty without a PRM."""
    right: bool | None = None
    """True if the answer is right; None if unknown."""
    loss: float = 0.0
    """Accuracy or mean step score of the target alone, minus that of this answer."""


class AnswerTree:
    """Answers a question under many thresholds and generates each step only once.

    The answers form a tree. Two thresholds share all steps up to the first step on which they
    decide differently, so thirty thresholds cost only as much as a few runs.

    Args:
        run: The models, with the router as policy. Its threshold is replaced by each threshold.
        question: The question. Its right answer must be known if `answers` is True.
        grader: Scores the steps of the answers; None leaves the scores empty.
        answers: True to measure losses in accuracy, False in step scores.

    Raises:
        ContextLengthError: The question exceeds a model's context length.
    """

    def __init__(
        self, run: Run, question: Question, grader: StepGrader | None, *, answers: bool
    ) -> None:
        self._run = run
        self._question = question
        self._root = Prefix.start(run, question.text)
        self._grader = grader
        self._answers = answers
        self._steps: dict[tuple[Writer, int, tuple[int, ...]], PendingStep] = {}
        self._decisions: dict[StepContext, RouteDecision] = {}

    def scores(self) -> list[float]:
        """Return ŷ of every draft step generated so far."""
        return [d["score"] for d in self._decisions.values() if d["score"] is not None]

    async def outcomes(self, thresholds: Sequence[float]) -> list[Outcome]:
        """Answer the question under each threshold; returns one outcome per threshold.

        Raises:
            ContextLengthError: An answer exceeds a model's context length.
        """
        outcomes = [
            await self._outcome(self._run.policy.with_threshold(threshold))
            for threshold in thresholds
        ]
        # The target alone comes last, because a grader assumes that the first step graded in a
        # context is the draft's step.
        target_alone = await self._outcome(None)
        for outcome in outcomes:
            if self._answers:
                outcome.loss = float(bool(target_alone.right)) - float(bool(outcome.right))
            else:
                outcome.loss = fmean(target_alone.scores) - fmean(outcome.scores)
        return outcomes

    async def _outcome(self, policy: Policy | None) -> Outcome:
        """Run the loop under a policy; None lets the target write every step."""
        outcome = Outcome()
        prefix = self._root
        while not prefix.finished:
            context = StepContext(prefix.texts, prefix.tags)
            draft = decision = None
            escalates = True
            if policy is not None:
                draft = await self._step("draft", prefix)
                if context not in self._decisions:
                    self._decisions[context] = await prefix.decide(draft)
                decision = self._decisions[context]
                escalates = policy.escalates(decision["score"])
                decision = {**decision, "escalate": escalates}
            writer: Writer = "target" if escalates else "draft"
            step = await self._step(writer, prefix, draft)
            outcome.steps += 1
            outcome.escalated += escalates
            if self._grader is not None:
                s_d = await self._grader.grade(context, draft["text"]) if draft else -1.0
                score = await self._grader.grade(context, step["text"])
                outcome.scores.append(score)
                outcome.wasted += escalates and score <= s_d
            prefix = await prefix.append(writer, step, decision)
        if self._answers:
            outcome.right = self._question.solved_by(prefix.answer)
        return outcome

    async def _step(
        self, role: Writer, prefix: Prefix, draft: PendingStep | None = None
    ) -> PendingStep:
        # The key contains the tokens so far but not their writers, because a model's step depends
        # only on the tokens, and different decisions often lead to the same tokens.
        steps = prefix.state["steps"]
        ids = self._run.models.input_ids(role, prefix.state["prompts"], steps)
        key = role, sum(len(s["ids"]) for s in steps), tuple(ids)
        if key not in self._steps:
            self._steps[key] = await prefix.generate(role, draft=draft)
        return self._steps[key]
