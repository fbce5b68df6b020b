"""Finds what a router's thresholds do: from runs of the loop, or from collected rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from statistics import fmean
from typing import Literal, TypeVar

from langgraph_arbitrage.errors import ContextLengthError, DataError
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.policies.calibration import Calibration, Operation
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.training.bounds import loss_bound
from langgraph_arbitrage.training.configs import CHECKER, CalibrateConfig
from langgraph_arbitrage.training.many import many
from langgraph_arbitrage.training.prefix import greedy_run
from langgraph_arbitrage.training.questions import Question, question_id
from langgraph_arbitrage.training.rows import Row, one_pair
from langgraph_arbitrage.training.tree import Outcome, Tree
from langgraph_arbitrage.training.verdict import verdict_of

__all__ = ["Calibrator", "calibrate_rows", "unseen"]

_T = TypeVar("_T")

RATES = (
    *(0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.18, 0.16),
    *(0.14, 0.12, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01),
)
"""Escalation rates at which thresholds are laid out, besides 0 and 1."""


def unseen(items: Sequence[_T], text: Callable[[_T], str], seen: Collection[str]) -> list[_T]:
    """Those whose question a router was not trained on.

    Args:
        items: Questions or rows.
        text: The question's text of each.
        seen: Hashes of the questions that it was trained on.

    Raises:
        DataError: None is left.
    """
    left = [item for item in items if question_id(text(item)) not in seen]
    if not left:
        raise DataError(
            f"the router was trained on all of these {len({text(i) for i in items})} questions: "
            "calibrate on others, or the thresholds come out too bold"
        )
    return left


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

    Raises:
        DataError: The rows come from several pairs, or from too few questions.
    """
    pair = one_pair(rows)
    questions: dict[str, list[tuple[Row, float]]] = {}
    for row, score in zip(rows, scores, strict=True):
        questions.setdefault(question_id(row["question"]), []).append((row, score))
    # By hash: an order that has nothing to do with how hard they are.
    pilot, rest = _parted([questions[key] for key in sorted(questions)], config)
    ladder = thresholds([score for group in pilot for _, score in group])
    columns = [[_of_rows(group, t) for group in rest] for t in ladder]
    return _calibration(ladder, columns, config, "rows", "score", pair)


def _of_rows(group: Sequence[tuple[Row, float]], threshold: float) -> Outcome:
    out = Outcome(steps=len(group))
    losses = []
    for row, score in group:
        escalates = score > threshold  # accept iff ŷ ≤ τ
        out.escalated += escalates
        out.wasted += escalates and row["s_t"] <= row["s_d"]
        out.scores.append(row["s_t"] if escalates else row["s_d"])
        losses.append(0.0 if escalates else row["s_t"] - row["s_d"])
    out.loss = fmean(losses)
    return out


class Calibrator:
    """Answers questions under each threshold of a router.

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
        prm: StepScorer | Literal["checker"] | None = None,
    ) -> None:
        self.config = config
        self._run = greedy_run(models, policy)
        self._prm = prm

    async def calibrate(
        self, questions: Sequence[Question], progress: Callable[[], None] = lambda: None
    ) -> Calibration:
        """The table, in the loss of accuracy; of step scores where no answers are known.

        Raises:
            DataError: There are neither answers to compare with nor a PRM, or too few questions.
        """
        answers = all(q.problem or q.answer is not None for q in questions)
        if not answers and self._prm is None:
            raise DataError(
                "a loss needs right answers or a PRM: name the answers' column with "
                "--answer-column, or a PRM with --prm"
            )
        pilot, rest = _parted(questions, self.config)
        models, config = self._run.models, self.config
        await asyncio.to_thread(models.prepare, self._run.policy)
        ladder: list[float] = [1.0]

        async def one(question: Question) -> tuple[list[float], list[Outcome]] | None:
            verdict = None
            if self._prm is not None:
                scorer = None if self._prm == CHECKER else self._prm
                verdict = verdict_of(question, models, scorer)  # type: ignore[arg-type]
            try:
                tree = Tree(self._run, question, verdict, answers=answers)
                outcomes = await tree.outcomes(ladder)
            except ContextLengthError:
                return None
            return tree.scores(), outcomes

        first = await many(pilot, one, config.concurrency, progress)
        ladder = thresholds([s for found in first if found for s in found[0]])
        outcomes = [o[1] for o in await many(rest, one, config.concurrency, progress) if o]
        if not outcomes:
            raise DataError("no question fits the models' contexts")
        pair = public_name(models.settings.draft), public_name(models.settings.target)
        columns = list(zip(*outcomes, strict=True))
        loss_of: Literal["accuracy", "score"] = "accuracy" if answers else "score"
        return _calibration(ladder, columns, config, "questions", loss_of, pair)


def thresholds(scores: Sequence[float]) -> list[float]:
    """The table's thresholds: 0, 1, and those that escalate given shares of these scores.

    They stand halfway between two scores, so that rounding moves none across.
    """
    ordered = sorted(scores)
    n = len(ordered)
    found = {0.0, 1.0}
    for rate in RATES if n > 1 else ():
        i = min(n - 1, max(1, round((1 - rate) * n)))
        found.add((ordered[i - 1] + ordered[i]) / 2)
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
    pair: tuple[str | None, str | None],
) -> Calibration:
    table = [
        _operation(threshold, outcomes, config.confidence)
        for threshold, outcomes in zip(ladder, columns, strict=True)
    ]
    return Calibration(
        table=tuple(table),
        loss_of=loss_of,
        confidence=config.confidence,
        questions=len(columns[0]),
        steps=sum(o.steps for o in columns[-1]),
        source=source,
        draft=pair[0] or "",
        target=pair[1] or "",
    )


def _operation(threshold: float, outcomes: Sequence[Outcome], confidence: float) -> Operation:
    escalated = sum(o.escalated for o in outcomes)
    scores = [s for o in outcomes for s in o.scores]
    right = [o.right for o in outcomes if o.right is not None]
    losses = [o.loss for o in outcomes]
    return Operation(
        threshold=threshold,
        escalation_rate=escalated / sum(o.steps for o in outcomes),
        wasted=sum(o.wasted for o in outcomes) / escalated if escalated and scores else None,
        score=fmean(scores) if scores else None,
        accuracy=fmean(right) if right else None,
        loss=fmean(losses),
        loss_bound=loss_bound(losses, confidence),
    )
