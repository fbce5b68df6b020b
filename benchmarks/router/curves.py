"""Thresholds from some problems, accuracies on others, and how sure a difference is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from world import Walk, World

from langgraph_arbitrage.evaluation.statistics import Bootstrap
from langgraph_arbitrage.training.concurrency import map_concurrently

RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
LADDER = 20
"""Thresholds that are tried on the problems that choose."""


async def walks(
    worlds: Sequence[World], judge: str, threshold: float, progress: Callable[[], None]
) -> list[Walk]:
    """Every problem under one threshold."""
    return await map_concurrently(worlds, lambda w: w.walk(judge, threshold), 64, progress)


def accuracy(some: Sequence[Walk]) -> float:
    """Share of right answers."""
    return sum(w.right for w in some) / len(some)


def rate(some: Sequence[Walk]) -> float:
    """Escalated steps ÷ steps."""
    return sum(w.escalated for w in some) / sum(w.steps for w in some)


class Curve:
    """What a judge's thresholds do on the problems that choose."""

    def __init__(self, points: Sequence[tuple[float, float, float]]) -> None:
        self.points = sorted(points)
        """(threshold, escalation rate, accuracy), thresholds rising."""

    @classmethod
    async def of(cls, worlds: Sequence[World], judge: str, progress: Callable[[], None]) -> Curve:
        """Thresholds at even quantiles of the numbers that the judge gives."""
        first = await map_concurrently(worlds, lambda w: w.walk(judge, math.inf), 64, progress)
        numbers = sorted(
            [
                await world.score(judge, context)
                for world, walk in zip(worlds, first, strict=True)
                for context in walk.contexts
            ]
        )
        cuts = {numbers[int((1 - i / LADDER) ** 2 * (len(numbers) - 1))] for i in range(LADDER)}
        points = []
        for threshold in sorted(cuts):
            some = await walks(worlds, judge, threshold, progress)
            points.append((threshold, rate(some), accuracy(some)))
        return cls(points)

    def at_rate(self, wanted: float) -> float:
        """The threshold for an escalation rate, by a straight line between two tried ones."""
        for (low, more, _), (high, fewer, _) in pairwise(self.points):
            if fewer <= wanted <= more:
                share = (more - wanted) / (more - fewer) if more > fewer else 0.0
                return low + share * (high - low)
        return self.points[0][0] if wanted > self.points[0][1] else self.points[-1][0]

    def cheapest(self, goal: float) -> float | None:
        """The threshold that escalates least among those with an accuracy of at least `goal`."""
        good = [(escalated, t) for t, escalated, right in self.points if right >= goal]
        return min(good)[1] if good else None


def difference(one: Sequence[Walk], other: Sequence[Walk]) -> tuple[float, float, float]:
    """Difference of accuracies on the same problems, with a 95 % paired bootstrap interval."""
    gap = Bootstrap(len(one)).difference([w.right for w in one], [w.right for w in other])
    assert gap.value is not None
    assert gap.low is not None
    assert gap.high is not None
    return gap.value, gap.low, gap.high
