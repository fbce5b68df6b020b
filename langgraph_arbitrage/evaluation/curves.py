"""Compare policies on the same questions, at equal accuracy and at equal escalation rate."""

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
"""Accuracy losses against the target alone at which speed-ups are computed."""

RATES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Escalation rates at which accuracies are compared."""

Rows = Sequence[Mapping[str, Any]]


def curves_of(points: Rows, boot: Bootstrap, within: float) -> dict[str, Any]:
    """Compute all comparisons between the policies of a sweep.

    Args:
        points: Statistics of each point.
        boot: Bootstrap over the questions of the sweep.
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
    """Choose each policy's fastest point whose accuracy is at least the target's minus `within`.

    If a policy has no such point, its most accurate point is chosen.
    """
    goal = max((p["accuracy"][0] for p in points if p["kind"] == "target"), default=1.0) - within
    chosen: dict[str, Mapping[str, Any]] = {}
    for kind in dict.fromkeys(p["kind"] for p in points):
        candidates = [p for p in points if p["kind"] == kind]
        good = [p for p in candidates if p["accuracy"][0] >= goal]
        if good:
            chosen[kind] = min(good, key=lambda p: p["seconds"]["mean"][0])
        else:
            chosen[kind] = max(candidates, key=lambda p: p["accuracy"][0])
    return chosen


def _means(points: Rows, boot: Bootstrap, name: str) -> tuple[Array, Array]:
    """Compute the mean of a measure at each point, over all questions and per bootstrap sample.

    Returns:
        The means over all questions [points], and those per sample [samples, points].
    """
    return boot.means([p["each"][name] for p in points])


def _speed_ups(points: Rows, boot: Bootstrap, losses: Sequence[float]) -> list[dict[str, Any]]:
    """Compute each policy's speed-up over the target alone, for each accuracy loss.

    The speed-up is that at the target's accuracy minus the loss.
    """
    import numpy as np

    target = [p for p in points if p["kind"] == "target"]
    if not target:
        return []
    (goal,), goals = _means(target, boot, "right")
    (target_seconds,), target_samples = _means(target, boot, "seconds")
    rows = []
    for kind in dict.fromkeys(p["kind"] for p in points if p["kind"] != "target"):
        own = [p for p in points if p["kind"] == kind]
        accuracy, accuracy_samples = _means(own, boot, "right")
        seconds, seconds_samples = _means(own, boot, "seconds")
        at = {}
        for loss in losses:
            value = float(target_seconds) / reached(seconds, accuracy, float(goal) - loss)
            samples = np.array(
                [
                    t / reached(s, a, g - loss)
                    for t, s, a, g in zip(
                        target_samples[:, 0],
                        seconds_samples,
                        accuracy_samples,
                        goals[:, 0],
                        strict=True,
                    )
                ]
            )
            at[f"{loss:g}"] = boot.estimate(value, samples).plain
        rows.append({"kind": kind, "at": at})
    return rows


def _at_rates(points: Rows, boot: Bootstrap) -> list[dict[str, Any]]:
    """Compute each policy's accuracy at `RATES`, and the first policy's accuracy minus it.

    Policies with a single point are omitted, because they have no curve to interpolate.
    """
    import numpy as np

    kinds = [
        kind
        for kind in dict.fromkeys(p["kind"] for p in points)
        if sum(p["kind"] == kind for p in points) > 1
    ]
    accuracy: dict[str, list[tuple[float, Any]]] = {}
    for kind in kinds:
        own = [p for p in points if p["kind"] == kind]
        right, right_samples = _means(own, boot, "right")
        escalated, escalated_samples = _means(own, boot, "escalated")
        steps, steps_samples = _means(own, boot, "steps")
        rate, rate_samples = escalated / steps, escalated_samples / steps_samples
        accuracy[kind] = [
            (
                at_rate(rate, right, at),
                np.array(
                    [at_rate(r, a, at) for r, a in zip(rate_samples, right_samples, strict=True)]
                ),
            )
            for at in RATES
        ]
    rows = []
    for kind in kinds:
        row: dict[str, Any] = {"kind": kind, "accuracy": {}, "first minus this": {}}
        for i, at in enumerate(RATES):
            own_accuracy, first = accuracy[kind][i], accuracy[kinds[0]][i]
            value = None if math.isnan(own_accuracy[0]) else round(own_accuracy[0], 6)
            row["accuracy"][f"{at:g}"] = value
            if kind != kinds[0]:
                gap = boot.estimate(first[0] - own_accuracy[0], first[1] - own_accuracy[1])
                row["first minus this"][f"{at:g}"] = gap.plain
        rows.append(row)
    return rows


def _paired(chosen: Rows, boot: Bootstrap) -> list[dict[str, Any]]:
    """Compute the accuracy difference and the speed-up between each pair of operating points."""
    rows = []
    for i, first in enumerate(chosen):
        for second in chosen[i + 1 :]:
            a, b = first["each"], second["each"]
            outcomes = list(zip(a["right"], b["right"], strict=True))
            rows.append(
                {
                    "one": first["key"],
                    "other": second["key"],
                    "accuracy": boot.difference(a["right"], b["right"]).plain,
                    "seconds": boot.ratio(b["seconds"], a["seconds"]).plain,
                    "only one right": sum(x > y for x, y in outcomes),
                    "only other right": sum(x < y for x, y in outcomes),
                }
            )
    return rows
