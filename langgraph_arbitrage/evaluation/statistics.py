"""Bootstrap intervals over questions, and interpolation between the measured points of a curve.

All comparisons are paired: both sides are resampled with the same questions.
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
    """A value and its confidence interval.

    Undefined numbers are None, for example beyond the end of a curve.
    """

    value: float | None
    low: float | None
    high: float | None

    @property
    def plain(self) -> list[float | None]:
        """`[value, low, high]` for JSON, rounded to 6 digits."""
        return [None if v is None else round(v, 6) for v in (self.value, self.low, self.high)]


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson interval of a proportion, which is valid near 0 and 1 too.

    Args:
        successes: Number of successes.
        n: Number of trials.
        confidence: Confidence level.

    Example:
        >>> [round(v, 3) for v in wilson(8, 10)]
        [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, correction = successes / n, z * z / n
    center = (p + correction / 2) / (1 + correction)
    half = z / (1 + correction) * math.sqrt(p * (1 - p) / n + correction / (4 * n))
    return max(0.0, center - half), min(1.0, center + half)


class Bootstrap:
    """Percentile bootstrap over questions. All estimates of an instance use the same samples.

    Args:
        n: Number of questions.
        resamples: Number of samples.
        confidence: Confidence level of the intervals.
        seed: Random seed.
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
        """Compute the means of several measures.

        Args:
            values: One number per measure and question, [measures, n].

        Returns:
            The means [measures], and the means of each sample [samples, measures].
        """
        import numpy as np

        table = np.asarray(values, float).T  # [n, measures]
        return table.mean(0), self._weights @ table

    def estimate(self, value: float | None, samples: Any) -> Estimate:
        """Return a value with its interval, whose ends are percentiles of the samples.

        A sample is nan if its curve does not reach the requested point. Samples that are nan sort
        below all other samples. An interval end is None if its percentile is nan.
        """
        import numpy as np

        if value is None or math.isnan(value):
            return Estimate(None, None, None)
        floor = np.where(np.isnan(samples), -np.inf, samples)
        low, high = np.percentile(floor, self._ends, method="nearest")
        ends = [float(end) if math.isfinite(end) else None for end in (low, high)]
        return Estimate(float(value), *ends)

    def difference(self, one: Sequence[float], other: Sequence[float]) -> Estimate:
        """Estimate the mean of `one` minus the mean of `other` on the same questions.

        Example:
            >>> Bootstrap(4).difference([1, 1, 1, 1], [0, 0, 0, 0])
            Estimate(value=1.0, low=1.0, high=1.0)
        """
        values, samples = self.means([one, other])
        return self.estimate(float(values[0] - values[1]), samples[:, 0] - samples[:, 1])

    def ratio(self, one: Sequence[float], other: Sequence[float]) -> Estimate:
        """Estimate the mean of `one` divided by the mean of `other` on the same questions."""
        values, samples = self.means([one, other])
        if not values[1]:
            return Estimate(None, None, None)
        return self.estimate(float(values[0] / values[1]), samples[:, 0] / samples[:, 1])


def reached(cost: Iterable[float], accuracy: Iterable[float], goal: float) -> float:
    """Return the lowest cost at which a policy's curve reaches an accuracy; nan if it never does.

    The curve is linear between two thresholds, because choosing one of the two at random for each
    question reaches every point on the line.

    Args:
        cost: Cost of each threshold, in any order.
        accuracy: Accuracy of each threshold.
        goal: Accuracy to reach.

    Example:
        >>> reached([1.0, 2.0, 3.0], [0.5, 0.7, 0.6], 0.6), reached([1.0], [0.5], 0.6)
        (1.5, nan)
    """
    order = sorted(zip(cost, accuracy, strict=True))
    best = math.nan
    for i, (c, a) in enumerate(order):
        if a < goal - 1e-12:
            continue
        lowest = c
        for cheaper, lower in order[:i]:
            if lower < goal and a > lower:
                weight = (goal - lower) / (a - lower)
                lowest = min(lowest, cheaper + weight * (c - cheaper))
        best = lowest if math.isnan(best) else min(best, lowest)
    return best


def at_rate(rate: Iterable[float], accuracy: Iterable[float], query: float) -> float:
    """Interpolate the accuracy at an escalation rate linearly; nan outside the measured rates.

    Args:
        rate: Escalation rate of each threshold, in any order.
        accuracy: Accuracy of each threshold.
        query: Escalation rate to interpolate at.

    Example:
        >>> round(at_rate([0.1, 0.3], [0.5, 0.7], 0.2), 3), at_rate([0.1, 0.3], [0.5, 0.7], 0.4)
        (0.6, nan)
    """
    order = sorted(zip(rate, accuracy, strict=True))
    for (low, a), (high, b) in pairwise(order):
        if low <= query <= high:
            return a if high == low else a + (query - low) / (high - low) * (b - a)
    return order[0][1] if len(order) == 1 and order[0][0] == query else math.nan
