"""Finds what a router's thresholds do: from runs of the loop, or from collected rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from langgraph_arbitrage.answer import answer_text
from langgraph_arbitrage.errors import ContextLengthError, DataError
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.names import public_name
from langgraph_arbitrage.policies import Decision, Policy, Writer
from langgraph_arbitrage.policies.calibration import Calibration, Operation
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.settings import Limits
from langgraph_arbitrage.state import PendingStep
from langgraph_arbitrage.training.bounds import loss_bound
from langgraph_arbitrage.training.prefix import Prefix
from langgraph_arbitrage.training.questions import Question, question_id
from langgraph_arbitrage.training.rows import Row
from langgraph_arbitrage.training.verdict import CheckerVerdict, ScorerVerdict, Verdict

__all__ = ["CalibrateConfig", "Calibrator", "calibrate_rows", "unused"]

_T = TypeVar("_T")

RATES = (
    *(0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.18, 0.16),
    *(0.14, 0.12, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01),
)
"""Escalation rates at which thresholds are laid out, besides 0 and 1."""


class CalibrateConfig(BaseModel):
    """How a router is calibrated."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence of each bound on the loss."""
    pilot: float = Field(default=0.2, gt=0, lt=1)
    """Share of the questions, the first ones, on which the thresholds of the table are laid out;
    the figures come from the others, or else the bounds would not hold."""
    concurrency: int = Field(default=32, ge=1)
    """Questions under way at a time."""


@dataclass
class Outcome:
    """What one threshold did to one question, or to its rows."""

    steps: int = 0
    escalated: int = 0
    wasted: int = 0
    compared: int = 0
    """Escalations of which both steps were scored."""
    scores: list[float] = field(default_factory=list)
    """Of the steps that were taken."""
    right: bool | None = None
    loss: float = 0.0
    """What the target alone would have gained on this question."""


def unused(questions: Sequence[Question], trained_on: Iterable[str]) -> list[Question]:
    """The questions without those that a router was trained on.

    Raises:
        DataError: None is left.
    """
    known = set(trained_on)
    left = [q for q in questions if question_id(q.text) not in known]
    if not left:
        raise DataError(
            f"the router was trained on all of these {len(questions)} questions: calibrate on "
            "others, or the thresholds would be found too bold"
        )
    return left


# --- from rows -----------------------------------------------------------------------------


def calibrate_rows(
    rows: Sequence[Row], scores: Sequence[float], config: CalibrateConfig
) -> Calibration:
    """A table from collected rows; a question's loss is the mean of its rows' Δ where accepted.

    Nothing is run, but the prefixes are those of the policy that collected, and nothing is known
    of the answers.

    Args:
        rows: Of questions that the router was not trained on.
        scores: ŷ of each row's draft step.
        config: How.
    """
    questions: dict[str, list[tuple[Row, float]]] = {}
    for row, score in zip(rows, scores, strict=True):
        questions.setdefault(question_id(row["question"]), []).append((row, score))
    groups = [questions[key] for key in sorted(questions)]
    pilot, rest = _parted(groups, config)
    ladder = thresholds([score for group in pilot for _, score in group])
    outcomes = [[_of_rows(group, t) for group in rest] for t in ladder]
    return _calibration(
        ladder, outcomes, config, "rows", "score", rows[0]["draft"], rows[0]["target"]
    )


def _of_rows(group: Sequence[tuple[Row, float]], threshold: float) -> Outcome:
    out = Outcome(steps=len(group))
    losses = []
    for row, score in group:
        escalates = score > threshold  # accept iff ŷ ≤ τ
        out.escalated += escalates
        out.compared += escalates
        out.wasted += escalates and row["s_t"] <= row["s_d"]
        out.scores.append(row["s_t"] if escalates else row["s_d"])
        losses.append(0.0 if escalates else row["s_t"] - row["s_d"])
    out.loss = fmean(losses)
    return out


# --- from runs -------------------------------------------------------------------------------


class Calibrator:
    """Answers questions under each threshold, writing no step twice.

    Two thresholds that agree so far on a question share all that was written for it, so that a
    table of thirty costs a few runs.

    Args:
        models: The pair.
        policy: The router; only its threshold is changed.
        config: How.
        prm: Scores the steps that are taken, for the columns on scores; `checker` for the exact
            checker of the embedded problems; None leaves those columns empty.
    """

    def __init__(
        self,
        models: Models,
        policy: Policy,
        config: CalibrateConfig,
        prm: StepScorer | str | None = None,
    ) -> None:
        self.models = models
        self.policy = policy
        self.config = config
        self._prm = prm
        self._limits = Limits.of(models.settings)

    async def calibrate(
        self, questions: Sequence[Question], progress: Callable[[], None] = lambda: None
    ) -> Calibration:
        """The table, in the loss of accuracy; of step scores where no answers are known.

        Raises:
            DataError: There are neither answers to compare with nor a PRM.
        """
        answers = all(q.problem or q.answer is not None for q in questions)
        if not answers and self._prm is None:
            raise DataError(
                "a loss needs right answers or a PRM: name the answers' column with "
                "--answer-column, or a PRM with --prm"
            )
        await asyncio.to_thread(self.models.prepare, self._limits.policy)
        pilot, rest = _parted(questions, self.config)
        slots = asyncio.Semaphore(self.config.concurrency)

        async def one(question: Question, ladder: Sequence[float]) -> tuple[_Tree, list[Outcome]]:
            async with slots:
                tree = _Tree(self, question, answers)
                outcomes = await tree.outcomes(ladder)
                progress()
                return tree, outcomes

        first = await _all(one(q, [1.0]) for q in pilot)
        ladder = thresholds([s for tree, _ in first for s in tree.scores()])
        found = await _all(one(q, ladder) for q in rest)
        columns = [list(column) for column in zip(*(o for _, o in found if o), strict=True)]
        settings = self.models.settings
        names = public_name(settings.draft), public_name(settings.target)
        loss_of = "accuracy" if answers else "score"
        return _calibration(ladder, columns, self.config, "questions", loss_of, *names)

    def verdict(self, question: Question) -> Verdict | None:
        """Who scores this question's steps."""
        if self._prm is None:
            return None
        if isinstance(self._prm, str):
            return CheckerVerdict(question)
        return ScorerVerdict(self.models, self._prm)


class _Tree:
    """All that is written for a question, under whatever threshold: a prefix is a branch."""

    def __init__(self, calibrator: Calibrator, question: Question, answers: bool) -> None:
        self._c = calibrator
        self._question = question
        self._answers = answers
        self._steps: dict[tuple[Writer, tuple[int, ...]], PendingStep] = {}
        self._decisions: dict[tuple[int, ...], Decision] = {}
        self._values: dict[tuple[tuple[int, ...], str], float] = {}

    def scores(self) -> list[float]:
        """ŷ of every draft step so far."""
        return [d.score for d in self._decisions.values() if d.score is not None]

    async def outcomes(self, ladder: Sequence[float]) -> list[Outcome]:
        """One outcome a threshold; none at all for a question that does not fit the models."""
        try:
            alone = await self._run(None)
            found = [await self._run(self._c.policy.with_threshold(t)) for t in ladder]
        except ContextLengthError:
            return []
        for out in found:
            if self._answers:
                out.loss = float(bool(alone.right)) - float(bool(out.right))
            else:
                out.loss = fmean(alone.scores) - fmean(out.scores)
        return found

    async def _run(self, policy: Policy | None) -> Outcome:
        """The loop under a policy; under none, the target alone."""
        c, out = self._c, Outcome()
        prefix = Prefix.of(c.models, c._limits, self._question.text)
        verdict = c.verdict(self._question)
        while True:
            decision = Decision(None, escalate=True)
            if policy is not None:
                draft = await self._written("draft", prefix)
                decision = await self._decided(prefix, draft)
            escalates = policy is None or policy.escalates(decision.score)
            step = await self._written("target", prefix) if escalates else draft
            out.steps += 1
            out.escalated += escalates
            if verdict is not None:
                judged = await verdict.judge(prefix, step["text"])
                out.scores.append(judged.value)
                if escalates and policy is not None:
                    other = await verdict.judge(prefix, draft["text"])
                    out.compared += 1
                    out.wasted += draft["text"] == step["text"] or judged.value <= other.value
                verdict.took(judged)
            ended = prefix.ends_with(step)
            prefix = prefix.take("target" if escalates else "draft", step, decision.memory)
            if ended:
                break
        if self._answers:
            separators = c.models.settings.separator
            text = answer_text(prefix.texts, c._limits.stop, separators)
            out.right = self._question.solved_by(text)
        return out

    async def _written(self, role: Writer, prefix: Prefix) -> PendingStep:
        key = role, _branch(prefix)
        if key not in self._steps:
            self._steps[key] = await prefix.write(role)
        return self._steps[key]

    async def _decided(self, prefix: Prefix, draft: PendingStep) -> Decision:
        key = _branch(prefix)
        if key not in self._decisions:
            self._decisions[key] = await prefix.decide(self._c.policy, draft, seed=0)
        return self._decisions[key]


def _branch(prefix: Prefix) -> tuple[int, ...]:
    """What tells one prefix of a question from another: who wrote which tokens."""
    return tuple(
        token
        for step in prefix.steps
        for token in (-1 - (step["writer"] == "target"), *step["ids"])
    )


async def _all(work: Iterable[object]) -> list[tuple[_Tree, list[Outcome]]]:
    return await asyncio.gather(*work)  # type: ignore[call-overload, no-any-return]


# --- the table -------------------------------------------------------------------------------


def thresholds(scores: Sequence[float]) -> list[float]:
    """The table's thresholds: 0, 1, and those that escalate given shares of these scores.

    They stand halfway between two scores, so that rounding moves none across.
    """
    ordered = sorted(scores)
    n = len(ordered)
    found = {0.0, 1.0}
    for rate in RATES if n > 1 else ():
        i = min(n - 1, max(1, round((1 - rate) * n)))
        found.add(min(1.0, max(0.0, (ordered[i - 1] + ordered[i]) / 2)))
    return sorted(found)


def _parted(groups: Sequence[_T], config: CalibrateConfig) -> tuple[Sequence[_T], Sequence[_T]]:
    count = max(1, round(len(groups) * config.pilot))
    if len(groups) - count < 2:
        raise DataError(
            f"{len(groups)} questions are too few to calibrate on: give some hundreds, of which "
            f"the first {config.pilot:.0%} lay out the thresholds"
        )
    return groups[:count], groups[count:]


def _calibration(
    ladder: Sequence[float],
    columns: Sequence[Sequence[Outcome]],
    config: CalibrateConfig,
    source: Literal["questions", "rows"],
    loss_of: Literal["accuracy", "score"],
    draft: str,
    target: str,
) -> Calibration:
    table = []
    for threshold, outcomes in zip(ladder, columns, strict=True):
        escalated, compared = (
            sum(getattr(o, name) for o in outcomes) for name in ("escalated", "compared")
        )
        scores = [s for o in outcomes for s in o.scores]
        right = [o.right for o in outcomes if o.right is not None]
        losses = [o.loss for o in outcomes]
        table.append(
            Operation(
                threshold=threshold,
                escalation_rate=escalated / sum(o.steps for o in outcomes),
                wasted=sum(o.wasted for o in outcomes) / compared if compared else None,
                score=fmean(scores) if scores else None,
                accuracy=fmean(right) if right else None,
                loss=fmean(losses),
                loss_bound=loss_bound(losses, config.confidence),
            )
        )
    return Calibration(
        table=tuple(table),
        loss_of=loss_of,
        confidence=config.confidence,
        questions=len(columns[0]),
        steps=sum(o.steps for o in columns[-1]),
        source=source,
        draft=draft,
        target=target,
    )
