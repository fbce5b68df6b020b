"""Choose thresholds on one set of problems and compare accuracies on another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from problem_steps import LoopAnswer, ProblemSteps

from langgraph_arbitrage.evaluation.statistics import Bootstrap
from langgraph_arbitrage.training.concurrency import map_concurrently

RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Escalation rates."""
CANDIDATES = 20
"""Number of thresholds that are tried."""


async def answer_all(
    problems: Sequence[ProblemSteps],
    signal: str,
    threshold: float,
    progress: Callable[[], None],
) -> list[LoopAnswer]:
    """Answer all problems with one signal and threshold."""
    return await map_concurrently(problems, lambda p: p.answer(signal, threshold), 64, progress)


def accuracy(answers: Sequence[LoopAnswer]) -> float:
    """Compute the fraction of right answers."""
    return sum(a.right for a in answers) / len(answers)


def escalation_rate(answers: Sequence[LoopAnswer]) -> float:
    """Compute the fraction of escalated steps."""
    return sum(a.escalated for a in answers) / sum(a.steps for a in answers)


class Curve:
    """Escalation rate and accuracy of a signal at several thresholds.

    Args:
        points: (threshold, escalation rate, accuracy) in any order.
    """

    def __init__(self, points: Sequence[tuple[float, float, float]]) -> None:
        self.points = sorted(points)

    @classmethod
    async def measure(
        cls, problems: Sequence[ProblemSteps], signal: str, progress: Callable[[], None]
    ) -> Curve:
        """Measure a signal at quantiles of its values, which are denser at high values."""
        answers = await map_concurrently(
            problems, lambda p: p.answer(signal, math.inf), 64, progress
        )
        values = sorted(
            [
                await problem.score(signal, context)
                for problem, answer in zip(problems, answers, strict=True)
                for context in answer.contexts
            ]
        )
        thresholds = {
            values[int((1 - i / CANDIDATES) ** 2 * (len(values) - 1))] for i in range(CANDIDATES)
        }
        points = []
        for threshold in sorted(thresholds):
            answers = await answer_all(problems, signal, threshold, progress)
            points.append((threshold, escalation_rate(answers), accuracy(answers)))
        return cls(points)

    def at_rate(self, rate: float) -> float:
        """Interpolate the threshold for an escalation rate."""
        for (low, high_rate, _), (high, low_rate, _) in pairwise(self.points):
            if low_rate <= rate <= high_rate:
                share = (high_rate - rate) / (high_rate - low_rate) if high_rate > low_rate else 0.0
                return low + share * (high - low)
        return self.points[0][0] if rate > self.points[0][1] else self.points[-1][0]

    def cheapest(self, goal: float) -> float | None:
        """Return the threshold with the lowest escalation rate whose accuracy is at least `goal`.

        None if no threshold reaches it.
        """
        sufficient = [(rate, t) for t, rate, accurate in self.points if accurate >= goal]
        return min(sufficient)[1] if sufficient else None


def difference(
    first: Sequence[LoopAnswer], second: Sequence[LoopAnswer]
) -> tuple[float, float, float]:
    """Compute the difference of accuracies on the same problems.

    Returns:
        The difference, and the ends of its 95 % paired bootstrap interval.
    """
    estimate = Bootstrap(len(first)).difference([a.right for a in first], [a.right for a in second])
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.value, estimate.low, estimate.high
