"""Measure a router at many thresholds, with runs of the loop or on collected rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from statistics import fmean
from typing import Literal, TypeVar

from langgraph_arbitrage.errors import ContextLengthError, DataError
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.policies.calibration import Calibration, OperatingPoint
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.training.bounds import loss_bound
from langgraph_arbitrage.training.concurrency import map_concurrently
from langgraph_arbitrage.training.configs import CHECKER, CalibrateConfig
from langgraph_arbitrage.training.prefix import greedy_run
from langgraph_arbitrage.training.questions import Question, question_id
from langgraph_arbitrage.training.rows import Row, model_pair
from langgraph_arbitrage.training.step_grader import make_grader
from langgraph_arbitrage.training.tree import AnswerTree, Outcome

__all__ = ["Calibrator", "calibrate_rows", "exclude_seen"]

_T = TypeVar("_T")

RATES = (
    *(0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.18, 0.16),
    *(0.14, 0.12, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01),
)
"""Escalation rates for which the table gets a threshold, in addition to the thresholds 0 and 1."""


def exclude_seen(items: Sequence[_T], text: Callable[[_T], str], seen: Collection[str]) -> list[_T]:
    """Exclude the items whose question was used to train a router.

    Args:
        items: Questions or rows.
        text: Returns the text of an item's question.
        seen: Ids of the questions used in training.

    Raises:
        DataError: No item is left.
    """
    unseen = [item for item in items if question_id(text(item)) not in seen]
    if not unseen:
        raise DataError(
            f"the router was trained on all of these {len({text(i) for i in items})} questions, "
            "which would make its thresholds too optimistic: calibrate on other questions"
        )
    return unseen


def calibrate_rows(
    rows: Sequence[Row], scores: Sequence[float], config: CalibrateConfig
) -> Calibration:
    """Calibrate on collected rows, without running the models.

    The loss of a row is Δ if the router accepts the draft's step, and 0 if the router escalates.
    The loss of a question is the mean over its rows. This calibration is less exact than one on
    questions: the prefixes come from the policy that collected the rows, not from the router, and
    it is unknown whether the answers are right.

    Args:
        rows: Rows of questions that were not used to train the router.
        scores: ŷ of each row's draft step.
        config: Options of the calibration.

    Raises:
        DataError: The rows come from several pairs, or from too few questions.
    """
    pair = model_pair(rows)
    questions: dict[str, list[tuple[Row, float]]] = {}
    for row, score in zip(rows, scores, strict=True):
        questions.setdefault(question_id(row["question"]), []).append((row, score))
    # Sort by question hash: the order of the rows may depend on how hard the questions are, and
    # the pilot would then not be representative.
    pilot, measured = _split_pilot([questions[key] for key in sorted(questions)], config)
    grid = thresholds([score for group in pilot for _, score in group])
    columns = [[_row_outcome(group, threshold) for group in measured] for threshold in grid]
    return _calibration(grid, columns, config, "rows", "score", pair)


def _row_outcome(group: Sequence[tuple[Row, float]], threshold: float) -> Outcome:
    """Compute the outcome of a question under a threshold from its rows, each with its ŷ."""
    outcome = Outcome(steps=len(group))
    losses = []
    for row, score in group:
        escalates = score > threshold  # accept iff ŷ ≤ τ
        outcome.escalated += escalates
        outcome.wasted += escalates and row["s_t"] <= row["s_d"]
        outcome.scores.append(row["s_t"] if escalates else row["s_d"])
        losses.append(0.0 if escalates else row["s_t"] - row["s_d"])
    outcome.loss = fmean(losses)
    return outcome


class Calibrator:
    """Calibrates a router by answering questions under many thresholds.

    Args:
        models: The pair.
        policy: The router. Its threshold is replaced by each threshold of the table.
        config: Options of the calibration.
        prm: Scores the steps of the answers for the table's score columns. `checker` selects the
            exact checker of the embedded problems; None leaves these columns empty.
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
        """Measure the table. Losses are in accuracy, or in step scores if no answers are known.

        Args:
            questions: Questions that were not used to train the router.
            progress: Called after each question.

        Raises:
            DataError: There are neither right answers nor a PRM, there are too few questions, or
                all questions exceed a model's context length.
        """
        answers = all(q.problem or q.answer is not None for q in questions)
        if not answers and self._prm is None:
            raise DataError(
                "losses need right answers or a PRM: name the answers' column with "
                "--answer-column, or a PRM with --prm"
            )
        pilot, measured = _split_pilot(questions, self.config)
        models, config = self._run.models, self.config
        await asyncio.to_thread(models.prepare, self._run.policy)
        grid: list[float] = [1.0]  # accepts every draft step

        async def measure(question: Question) -> tuple[list[float], list[Outcome]] | None:
            """Return the scores of the draft steps, and an outcome per threshold.

            Returns None if the question or an answer exceeds a model's context length.
            """
            grader = None
            if self._prm is not None:
                scorer = None if self._prm == CHECKER else self._prm
                grader = make_grader(question, models, scorer)  # type: ignore[arg-type]
            try:
                tree = AnswerTree(self._run, question, grader, answers=answers)
                outcomes = await tree.outcomes(grid)
            except ContextLengthError:
                return None
            return tree.scores(), outcomes

        results = await map_concurrently(pilot, measure, config.concurrency, progress)
        grid = thresholds([score for result in results if result for score in result[0]])
        results = await map_concurrently(measured, measure, config.concurrency, progress)
        outcomes = [result[1] for result in results if result]
        if not outcomes:
            raise DataError(
                "all questions exceed a model's context length: calibrate on shorter questions"
            )
        pair = public_name(models.settings.draft), public_name(models.settings.target)
        columns = list(zip(*outcomes, strict=True))
        loss_of: Literal["accuracy", "score"] = "accuracy" if answers else "score"
        return _calibration(grid, columns, config, "questions", loss_of, pair)


def thresholds(scores: Sequence[float]) -> list[float]:
    """Choose the table's thresholds: 0, 1, and one for each escalation rate of `RATES`.

    The threshold for a rate lies halfway between two scores, so that rounding does not change a
    decision.

    Args:
        scores: ŷ of the pilot's draft steps.
    """
    ordered = sorted(scores)
    n = len(ordered)
    grid = {0.0, 1.0}
    for rate in RATES if n > 1 else ():
        i = min(n - 1, max(1, round((1 - rate) * n)))
        grid.add((ordered[i - 1] + ordered[i]) / 2)
    return sorted(grid)


def _split_pilot(
    groups: Sequence[_T], config: CalibrateConfig
) -> tuple[Sequence[_T], Sequence[_T]]:
    """Split questions into the pilot, which determines the thresholds, and the measured questions.

    Each group holds one question.
    """
    count = max(1, round(len(groups) * config.pilot))
    if len(groups) - count < 2:
        raise DataError(
            f"{len(groups)} questions are too few to calibrate on: use several hundred, because "
            f"the first {config.pilot:.0%} only set the thresholds"
        )
    return groups[:count], groups[count:]


def _calibration(
    grid: Sequence[float],
    columns: Sequence[Sequence[Outcome]],
    config: CalibrateConfig,
    source: Literal["questions", "rows"],
    loss_of: Literal["accuracy", "score"],
    pair: tuple[str | None, str | None],
) -> Calibration:
    """Build the calibration from one column per threshold, with one outcome per question."""
    table = [
        _operating_point(threshold, outcomes, config.confidence)
        for threshold, outcomes in zip(grid, columns, strict=True)
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


def _operating_point(
    threshold: float, outcomes: Sequence[Outcome], confidence: float
) -> OperatingPoint:
    escalated = sum(o.escalated for o in outcomes)
    scores = [s for o in outcomes for s in o.scores]
    right = [o.right for o in outcomes if o.right is not None]
    losses = [o.loss for o in outcomes]
    return OperatingPoint(
        threshold=threshold,
        escalation_rate=escalated / sum(o.steps for o in outcomes),
        wasted=sum(o.wasted for o in outcomes) / escalated if escalated and scores else None,
        score=fmean(scores) if scores else None,
        accuracy=fmean(right) if right else None,
        loss=fmean(losses),
        loss_bound=loss_bound(losses, confidence),
    )
