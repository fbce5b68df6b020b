"""Intervals from resampled questions, and what lies between two measured points of a curve.

All comparisons are paired: the same questions are drawn for both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Bootstrap", "Estimate", "at_rate", "reached", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; None where it is not defined, as for a curve that ends before."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def plain(self) -> list[float | None]:
        """For JSON."""
        return [None if v is None else round(v, 6) for v in (self.value, self.low, self.high)]


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, which also holds near 0 and 1.

    Example:
        >>> [round(v, 3) for v in wilson(8, 10)]
        [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, more = successes / n, z * z / n
    middle = (share + more / 2) / (1 + more)
    half = z / (1 + more) * math.sqrt(share * (1 - share) / n + more / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


class Bootstrap:
    """Samples of the same questions for everything that is asked of it.

    Args:
        n: Questions.
        resamples: Samples.
        confidence: Of the intervals: percentiles of the samples.
        seed: Of what is drawn.
    """

    def __init__(
        self, n: int, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
    ) -> None:
        import numpy as np

        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, n, (resamples, n))
        self._weights: Array = np.zeros((resamples, n))
        rows = np.repeat(np.arange(resamples), n)
        np.add.at(self._weights, (rows, drawn.ravel()), 1 / n)
        self._ends = 100 * (1 - confidence) / 2, 100 * (1 + confidence) / 2

    def means(self, values: Sequence[Sequence[float]]) -> tuple[Array, Array]:
        """Means of several measures.

        Args:
            values: For each measure, one number a question.

        Returns:
            The means [measures], and those of each sample [samples, measures].
        """
        import numpy as np

        table = np.asarray(values, float).T  # [n, measures]
        return table.mean(0), self._weights @ table

    def estimate(self, value: float | None, samples: Any) -> Estimate:
        """A value with the percentiles of its samples.

        A sample is nan where a curve does not reach so far: it counts as below everything, and an
        end of the interval that falls on one is None.
        """
        import numpy as np

        if value is None or math.isnan(value):
            return Estimate(None, None, None)
        floor = np.where(np.isnan(samples), -np.inf, samples)
        low, high = np.percentile(floor, self._ends, method="nearest")
        ends = [float(end) if math.isfinite(end) else None for end in (low, high)]
        return Estimate(float(value), *ends)

    def difference(self, one: Sequence[float], other: Sequence[float]) -> Estimate:
        """Mean of one minus mean of the other, on the same questions.

        Example:
            >>> Bootstrap(4).difference([1, 1, 1, 1], [0, 0, 0, 0])
            Estimate(value=1.0, low=1.0, high=1.0)
        """
        values, samples = self.means([one, other])
        return self.estimate(float(values[0] - values[1]), samples[:, 0] - samples[:, 1])

    def ratio(self, one: Sequence[float], other: Sequence[float]) -> Estimate:
        """Mean of one over mean of the other, on the same questions."""
        values, samples = self.means([one, other])
        if not values[1]:
            return Estimate(None, None, None)
        return self.estimate(float(values[0] / values[1]), samples[:, 0] / samples[:, 1])


def reached(cost: Iterable[float], accuracy: Iterable[float], goal: float) -> float:
    """Least cost at which a policy is as accurate as `goal`, along its curve; nan if it never is.

    Between two thresholds the curve is straight: whoever tosses a coin for each question between
    the two gets every point of the line.

    Args:
        cost: Of each threshold, in any order.
        accuracy: Of each threshold.
        goal: The accuracy that is wanted.

    Example:
        >>> reached([1.0, 2.0, 3.0], [0.5, 0.7, 0.6], 0.6), reached([1.0], [0.5], 0.6)
        (1.5, nan)
    """
    order = sorted(zip(cost, accuracy, strict=True))
    best = math.nan
    for i, (c, a) in enumerate(order):
        if a < goal - 1e-12:
            continue
        found = c
        for before, less in order[:i]:
            if less < goal and a > less:
                share = (goal - less) / (a - less)
                found = min(found, before + share * (c - before))
        best = found if math.isnan(best) else min(best, found)
    return best


def at_rate(rate: Iterable[float], accuracy: Iterable[float], wanted: float) -> float:
    """Accuracy at an escalation rate, by a straight line between two thresholds; nan outside.

    Example:
        >>> round(at_rate([0.1, 0.3], [0.5, 0.7], 0.2), 3), at_rate([0.1, 0.3], [0.5, 0.7], 0.4)
        (0.6, nan)
    """
    order = sorted(zip(rate, accuracy, strict=True))
    for (low, a), (high, b) in pairwise(order):
        if low <= wanted <= high:
            return a if high == low else a + (wanted - low) / (high - low) * (b - a)
    return order[0][1] if len(order) == 1 and order[0][0] == wanted else math.nan
