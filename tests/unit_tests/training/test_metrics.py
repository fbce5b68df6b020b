"""Metrics of a scorer, compared with examples computed by hand."""

from __future__ import annotations

import math
import random

import pytest

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.training.examples import balanced_indices, class_bounds
from langgraph_arbitrage.training.metrics import (
    class_accuracy,
    expected_calibration_error,
    ranks,
    roc_auc,
    scorer_metrics,
    spearman,
)


def test_ties_share_their_rank() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0, 3.0]) == [4, 1, 4, 2, 4]


def test_spearman_is_one_minus_six_squared_differences_without_ties() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    assert spearman(a, b) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman(a, [-x for x in a]) == pytest.approx(-1)
    assert math.isnan(spearman(a, [1.0] * 5))


def test_the_auc_counts_pairs_and_ties_half() -> None:
    rng = random.Random(0)
    scores = [rng.randrange(6) / 5 for _ in range(60)]
    labels = [int(rng.random() < 0.3) for _ in scores]
    pairs = [
        float(p > n) + (p == n) / 2
        for p, one in zip(scores, labels, strict=True)
        if one
        for n, other in zip(scores, labels, strict=True)
        if not other
    ]
    assert roc_auc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(roc_auc(scores, [0] * 60))


def test_a_score_of_one_half_counts_as_class_0_and_a_missing_class_has_no_accuracy() -> None:
    assert class_accuracy([0.5, 0.9, 0.6, 0.1], [0, 0, 1, 1]) == (0.5, 0.5)
    zero, one = class_accuracy([0.9], [1])
    assert (math.isnan(zero), one) == (True, 1.0)


def test_the_calibration_error_weights_bins_by_their_size() -> None:
    # Bin [0.2, 0.3): 4 scores of 0.25, all wrong. Bin [0.9, 1]: 0.95 and 1.0, both right.
    scores, labels = [0.25] * 4 + [0.95, 1.0], [0] * 4 + [1, 1]
    assert expected_calibration_error(scores, labels) == pytest.approx((4 * 0.25 + 0.05) / 6)


def test_only_a_router_has_a_rho() -> None:
    assert "rho" not in scorer_metrics([0.1, 0.9], [0, 1])
    metrics = scorer_metrics([0.1, 0.9], [0, 1], [-0.5, 0.5])
    assert (metrics["rho"], metrics["auc"], metrics["balanced_accuracy"]) == (1.0, 1.0, 1.0)
    assert (metrics["n"], metrics["positives"]) == (2, 0.5)


@pytest.mark.parametrize("count", [2, 4, 10])
def test_classes_divide_each_side_of_the_margin_evenly(count: int) -> None:
    advantages = [i / 100 for i in range(-50, 51)]
    bounds = class_bounds(advantages, count, 0.1)
    assert (len(bounds), bounds[count // 2 - 1], bounds) == (count - 1, 0.1, sorted(set(bounds)))
    classes = [sum(bound < a for bound in bounds) for a in advantages]
    half = count // 2
    assert all((c >= half) == (a > 0.1) for c, a in zip(classes, advantages, strict=True))
    sizes = [classes.count(k) for k in range(count)]
    assert max(sizes[:half]) - min(sizes[:half]) <= 1
    assert max(sizes[half:]) - min(sizes[half:]) <= 1


def test_classes_are_not_empty_if_one_advantage_occurs_often() -> None:
    advantages = [0.0] * 90 + [-0.2, -0.1] + [0.1, 0.2] + [1.0] * 30
    bounds = class_bounds(advantages, 4, 0.0)
    classes = [sum(bound < a for bound in bounds) for a in advantages]
    assert sorted(set(classes)) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="10 classes need 5 different advantages on each side of 0"):
        class_bounds(advantages, 10, 0.0)


def test_balancing_keeps_all_of_the_smaller_class() -> None:
    labels = [0] * 9 + [1] * 3
    indices = balanced_indices(labels, 0)
    assert [labels[i] for i in indices] == [0, 0, 0, 1, 1, 1]
    assert indices == balanced_indices(labels, 0) != balanced_indices(labels, 1)
