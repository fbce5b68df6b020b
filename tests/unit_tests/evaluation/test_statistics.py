"""Coverage of intervals, paired comparisons and interpolation of curves."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from langgraph_arbitrage.evaluation.statistics import Bootstrap, at_rate, reached, wilson


def test_intervals_cover_the_true_value_at_their_confidence_level() -> None:
    rng = random.Random(0)
    boot = Bootstrap(80, resamples=300)
    inside = [0, 0]
    for _ in range(300):
        one = [float(rng.random() < 0.7) for _ in range(80)]
        other = [float(rng.random() < 0.5) for _ in range(80)]
        gap = boot.difference(one, other)
        assert gap.low is not None
        assert gap.high is not None
        inside[0] += gap.low <= 0.2 <= gap.high
        low, high = wilson(int(sum(one)), 80)
        inside[1] += low <= 0.7 <= high
    assert all(0.9 <= count / 300 <= 0.985 for count in inside)


def test_differences_are_taken_on_the_same_questions() -> None:
    rng = random.Random(1)
    hard = [float(rng.random() < 0.5) for _ in range(200)]
    gap = Bootstrap(200).difference(hard, hard)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)
    better = hard.copy()
    for i in [i for i, right in enumerate(hard) if not right][:8]:
        better[i] = 1.0
    gap = Bootstrap(200).difference(better, hard)
    assert gap.value == pytest.approx(0.04)
    assert gap.low is not None
    assert gap.low > 0  # unpaired, it would be ± 0.1


def test_the_ratio_of_means_has_an_interval() -> None:
    rng = random.Random(2)
    slow = [1 + rng.random() for _ in range(100)]
    ratio = Bootstrap(100).ratio(slow, [s / 2 for s in slow])
    assert [ratio.value, ratio.low, ratio.high] == [pytest.approx(2)] * 3


def test_wilson_intervals_are_valid_at_0_and_1() -> None:
    assert wilson(0, 20)[0] == 0
    assert 0.1 < wilson(0, 20)[1] < 0.2
    assert wilson(20, 20)[1] == 1
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("goal", "cost"), [(0.5, 1.0), (0.6, 1.5), (0.7, 2.0), (0.75, 3.0), (0.8, 4.0), (0.3, 1.0)]
)
def test_the_cost_of_an_accuracy_is_interpolated(goal: float, cost: float) -> None:
    # The second point dominates the third: it is faster and more accurate.
    assert reached([1, 2, 3, 4], [0.5, 0.7, 0.6, 0.8], goal) == pytest.approx(cost)


def test_an_accuracy_beyond_the_curve_is_never_reached() -> None:
    assert math.isnan(reached([1, 2], [0.5, 0.7], 0.71))


def test_accuracy_at_an_escalation_rate_is_interpolated() -> None:
    assert at_rate([0.3, 0.1], [0.7, 0.5], 0.2) == pytest.approx(0.6)
    assert math.isnan(at_rate([0.1, 0.3], [0.5, 0.7], 0.05))


def test_samples_beyond_the_curve_leave_an_end_of_the_interval_undefined() -> None:
    boot = Bootstrap(10)
    samples = np.array([math.nan] * 30 + [2.0] * 970)
    assert boot.estimate(2.0, samples).plain == [2.0, None, 2.0]
    assert boot.estimate(2.0, np.array([math.nan] + [2.0] * 999)).plain == [2.0, 2.0, 2.0]
    assert boot.estimate(math.nan, samples).plain == [None, None, None]
