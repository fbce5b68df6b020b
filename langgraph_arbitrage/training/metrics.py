"""Metrics of a router or a PRM, computed from its scores in pure Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

__all__ = [
    "class_accuracy",
    "expected_calibration_error",
    "ranks",
    "roc_auc",
    "scorer_metrics",
    "spearman",
]


def ranks(values: Sequence[float]) -> list[float]:
    """Compute the rank of each value, starting at 1. Identical values get their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    before = 0
    for _, group in groupby(order, key=values.__getitem__):
        tied = list(group)
        for i in tied:
            result[i] = before + (len(tied) + 1) / 2
        before += len(tied)
    return result


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute Spearman's ρ, the correlation of the ranks; NaN if one side is constant.

    Example:
        >>> spearman([0.1, 0.4, 0.2], [1, 3, 2])
        1.0
    """
    x, y = ranks(a), ranks(b)
    mean = (len(x) + 1) / 2
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) * sum((v - mean) ** 2 for v in y))
    if not spread:
        return math.nan
    return sum((v - mean) * (w - mean) for v, w in zip(x, y, strict=True)) / spread


def roc_auc(scores: Sequence[float], labels: Sequence[int]) -> float:
    """Compute the ROC-AUC; NaN if a class is missing.

    It is the probability that a random score of class 1 is above a random score of class 0. Ties
    count half.

    Example:
        >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    positives = sum(labels)
    negatives = len(labels) - positives
    if not positives or not negatives:
        return math.nan
    total = sum(r for r, label in zip(ranks(scores), labels, strict=True) if label)
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def class_accuracy(
    scores: Sequence[float], labels: Sequence[int], cut: float = 0.5
) -> tuple[float, float]:
    """Compute the accuracy on class 0 and on class 1; NaN for a missing class.

    A score is right for class 1 if it is above the cut, and for class 0 otherwise.
    """
    zeros = [s <= cut for s, label in zip(scores, labels, strict=True) if not label]
    ones = [s > cut for s, label in zip(scores, labels, strict=True) if label]
    return (
        sum(zeros) / len(zeros) if zeros else math.nan,
        sum(ones) / len(ones) if ones else math.nan,
    )


def expected_calibration_error(
    scores: Sequence[float], labels: Sequence[int], bins: int = 10
) -> float:
    """Compute the mean distance between the mean score and the share of class 1 in a score bin.

    The bins have equal width. Each bin is weighted by its number of scores.

    Source: Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599.
    """
    members: list[list[tuple[float, int]]] = [[] for _ in range(bins)]
    for score, label in zip(scores, labels, strict=True):
        members[min(int(score * bins), bins - 1)].append((score, label))
    distance = sum(abs(sum(s for s, _ in m) - sum(label for _, label in m)) for m in members)
    return distance / len(scores)


def scorer_metrics(
    scores: Sequence[float], labels: Sequence[int], advantages: Sequence[float] | None = None
) -> dict[str, float]:
    """Compute all metrics of a scorer on held-out steps; undefined ones are NaN.

    Args:
        scores: ŷ of a router, or a PRM's probability that a step is right, in [0, 1].
        labels: 1 if the target's step is better (router) or if the step is right (PRM), else 0.
        advantages: Δ of each step, for Spearman's ρ; None for a PRM.

    Returns:
        Metrics by their keys in `training.json`.
    """
    zero, one = class_accuracy(scores, labels)
    metrics = {
        "n": float(len(scores)),
        "positives": sum(labels) / len(labels),
        "auc": roc_auc(scores, labels),
        "accuracy_0": zero,
        "accuracy_1": one,
        "balanced_accuracy": (zero + one) / 2,
        "ece": expected_calibration_error(scores, labels),
    }
    return metrics if advantages is None else {"rho": spearman(scores, advantages), **metrics}
