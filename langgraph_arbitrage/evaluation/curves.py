"""Policies beside each other on the same questions: at equal accuracy, and at equal escalation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.evaluation.statistics import Bootstrap, at_rate, reached

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["LOSSES", "RATES", "curves_of", "operating_points"]

LOSSES = (0.0, 0.01, 0.02, 0.05)
"""Accuracy given up against the target alone, where speed-ups are told."""

RATES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Escalation rates at which accuracies are compared."""

Rows = Sequence[Mapping[str, Any]]


def curves_of(points: Rows, boot: Bootstrap, within: float) -> dict[str, Any]:
    """All comparisons.

    Args:
        points: Figures of each point.
        boot: Over their questions.
        within: Accuracy that an operating point may lose against the target alone.
    """
    chosen = operating_points(points, within)
    return {
        "speed-up at equal accuracy": _speed_ups(points, boot, sorted({*LOSSES, within})),
        "accuracy at equal escalation": _at_rates(points, boot),
        "operating points": {kind: point["key"] for kind, point in chosen.items()},
        "paired": _paired(list(chosen.values()), boot),
    }


def operating_points(points: Rows, within: float) -> dict[str, Mapping[str, Any]]:
    """Each policy's quickest point within so much of the target's accuracy, else its best one."""
    goal = max((p["accuracy"][0] for p in points if p["kind"] == "target"), default=1.0) - within
    chosen: dict[str, Mapping[str, Any]] = {}
    for kind in dict.fromkeys(p["kind"] for p in points):
        some = [p for p in points if p["kind"] == kind]
        good = [p for p in some if p["accuracy"][0] >= goal]
        if good:
            chosen[kind] = min(good, key=lambda p: p["seconds"]["mean"][0])
        else:
            chosen[kind] = max(some, key=lambda p: p["accuracy"][0])
    return chosen


def _means(points: Rows, boot: Bootstrap, name: str) -> tuple[Array, Array]:
    """Means of a measure at these points, and those of each sample."""
    return boot.means([p["each"][name] for p in points])


def _speed_ups(points: Rows, boot: Bootstrap, losses: Sequence[float]) -> list[dict[str, Any]]:
    """How many times as fast as the target alone, at its accuracy less each loss."""
    import numpy as np

    target = [p for p in points if p["kind"] == "target"]
    if not target:
        return []
    (goal,), goals = _means(target, boot, "right")
    (pace,), paces = _means(target, boot, "seconds")
    found = []
    for kind in dict.fromkeys(p["kind"] for p in points if p["kind"] != "target"):
        some = [p for p in points if p["kind"] == kind]
        accuracy, accuracies = _means(some, boot, "right")
        seconds, many = _means(some, boot, "seconds")
        at = {}
        for loss in losses:
            value = float(pace) / reached(seconds, accuracy, float(goal) - loss)
            samples = np.array(
                [
                    p / reached(s, a, g - loss)
                    for p, s, a, g in zip(paces[:, 0], many, accuracies, goals[:, 0], strict=True)
                ]
            )
            at[f"{loss:g}"] = boot.estimate(value, samples).plain
        found.append({"kind": kind, "at": at})
    return found


def _at_rates(points: Rows, boot: Bootstrap) -> list[dict[str, Any]]:
    """Accuracy of each policy at equal escalation, and the first policy's minus each other's."""
    import numpy as np

    kinds = [
        kind
        for kind in dict.fromkeys(p["kind"] for p in points)
        if sum(p["kind"] == kind for p in points) > 1
    ]
    accuracy: dict[str, list[tuple[float, Any]]] = {}
    for kind in kinds:
        some = [p for p in points if p["kind"] == kind]
        right, rights = _means(some, boot, "right")
        up, ups = _means(some, boot, "escalated")
        steps, many = _means(some, boot, "steps")
        rate, rates = up / steps, ups / many
        accuracy[kind] = [
            (
                at_rate(rate, right, wanted),
                np.array([at_rate(r, a, wanted) for r, a in zip(rates, rights, strict=True)]),
            )
            for wanted in RATES
        ]
    found = []
    for kind in kinds:
        row: dict[str, Any] = {"kind": kind, "accuracy": {}, "first minus this": {}}
        for i, wanted in enumerate(RATES):
            mine, first = accuracy[kind][i], accuracy[kinds[0]][i]
            value = None if math.isnan(mine[0]) else round(mine[0], 6)
            row["accuracy"][f"{wanted:g}"] = value
            if kind != kinds[0]:
                gap = boot.estimate(first[0] - mine[0], first[1] - mine[1])
                row["first minus this"][f"{wanted:g}"] = gap.plain
        found.append(row)
    return found


def _paired(chosen: Rows, boot: Bootstrap) -> list[dict[str, Any]]:
    """Every two operating points: difference of accuracies, ratio of mean seconds."""
    found = []
    for i, one in enumerate(chosen):
        for other in chosen[i + 1 :]:
            mine, theirs = one["each"], other["each"]
            found.append(
                {
                    "one": one["key"],
                    "other": other["key"],
                    "accuracy": boot.difference(mine["right"], theirs["right"]).plain,
                    "seconds": boot.ratio(theirs["seconds"], mine["seconds"]).plain,
                    "only one right": sum(
                        a > b for a, b in zip(mine["right"], theirs["right"], strict=True)
                    ),
                    "only other right": sum(
                        a < b for a, b in zip(mine["right"], theirs["right"], strict=True)
                    ),
                }
            )
    return found
