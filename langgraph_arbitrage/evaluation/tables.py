"""Write the points of a sweep as CSV and render tables for the terminal."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.evaluation.points import KINDS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["POINTS", "headlines", "points_table", "save_points"]

POINTS = "points.csv"
MIN_ACCURACY = 0.05
"""Accuracy below which speed-ups at equal accuracy are meaningless."""
MAX_AT_LIMIT = 0.05
"""Fraction of answers at a limit above which the summary warns."""

Results = Mapping[str, Any]

COLUMNS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "policy": lambda p: p["kind"],
    "threshold": lambda p: p["threshold"],
    "default": lambda p: int(p["default"]),
    "questions": lambda p: p["n"],
    "accuracy": lambda p: p["accuracy"][0],
    "accuracy_low": lambda p: p["accuracy"][1],
    "accuracy_high": lambda p: p["accuracy"][2],
    "accuracy_learned": lambda p: p["accuracy, learned"],
    "escalation_by_steps": lambda p: p["escalation by steps"],
    "escalation_by_tokens": lambda p: p["escalation by tokens"],
    "wasted_escalations": lambda p: p["wasted"],
    "seconds_mean": lambda p: p["seconds"]["mean"][0],
    "seconds_mean_low": lambda p: p["seconds"]["mean"][1],
    "seconds_mean_high": lambda p: p["seconds"]["mean"][2],
    "seconds_median": lambda p: p["seconds"]["median"],
    "seconds_p95": lambda p: p["seconds"]["p95"],
    "draft_tokens": lambda p: p["tokens"]["draft"],
    "target_tokens": lambda p: p["tokens"]["target"],
    "discarded_tokens": lambda p: p["tokens"]["discarded"],
    "steps": lambda p: p["steps"],
    "at_limit": lambda p: p["at limit"],
    "errors": lambda p: len(p["errors"]),
    "graded_late": lambda p: p["graded late"],
}
"""Columns of the CSV file. Token and step counts are means per question. Accuracies and rates are
fractions from 0 to 1."""


def save_points(results: Results, folder: Path) -> Path:
    """Write the CSV file and return its path."""
    path = folder / POINTS
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for point in results["points"]:
            cells = [value_of(point) for value_of in COLUMNS.values()]
            writer.writerow([f"{c:.6g}" if isinstance(c, float) else c for c in cells])
    return path


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction as a percentage; an en dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(values: Any, scale: float = 1, digits: int = 2, unit: str = "") -> str:
    """Format `[value, low, high]`. An undefined end of the interval is shown as an ellipsis."""
    value, low, high = values
    if value is None:
        return "not reached"
    ends = " – ".join("…" if end is None else f"{scale * end:.{digits}f}" for end in (low, high))
    return f"{scale * value:.{digits}f}{unit} ({ends})"


def headlines(results: Results) -> list[str]:
    """Summarize the sweep in a sentence or two; without the target as a reference, in none."""
    cut = [p for p in results["points"] if p["at limit"] > MAX_AT_LIMIT]
    if cut:
        worst = max(cut, key=lambda p: p["at limit"])
        warning = (
            f"{percent(worst['at limit'])} of the answers of {worst['title']} reach a limit of "
            "tokens or steps, and most of them count as wrong: repeat the evaluation with a "
            "larger --max-tokens."
        )
        return [warning, *_speed_ups(results)]
    return _speed_ups(results)


def _speed_ups(results: Results) -> list[str]:
    """Summarize the speed-ups over the target alone."""
    if all(p["accuracy"][0] < MIN_ACCURACY for p in results["points"]):
        accuracy = f"Accuracy is below {MIN_ACCURACY:.0%} at every point"
        return [f"{accuracy}: these models cannot solve this task."]
    within = results["within"]
    points = f"{100 * within:g} percentage point{'s' * (within != 0.01)}"
    speed_ups = []
    for row in results["speed-up at equal accuracy"]:
        at = row["at"][f"{within:g}"]
        if at[0] is not None and row["kind"] not in ("draft", "oracle", "exact"):
            speed_ups.append(f"{KINDS[row['kind']].title} {interval(at, unit='×')}")
    if speed_ups:
        head = f"Speed-up over the target alone, within {points} of its accuracy"
        return [f"{head}: {'; '.join(speed_ups)}."]
    if any(p["kind"] == "target" for p in results["points"]):
        return [f"No policy is within {points} of the target's accuracy."]
    return []


def points_table(results: Results) -> Table:
    """Render all points for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    n, level = len(results["questions"]), results["confidence"]
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{n:,} questions of {results['about']['dataset']}",
        caption=f"accuracy with {level:.0%} interval; * default threshold of the policy; "
        "escalated: fraction of the steps; at limit: fraction of the answers that a limit cut off; "
        "mean, median and p95: seconds per question",
        caption_justify="left",
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    heads = ("accuracy", "interval", "escalated", "wasted", "at limit", "mean s", "median", "p95")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for p in results["points"]:
        seconds, (value, low, high) = p["seconds"], p["accuracy"]
        table.add_row(
            p["title"] + " *" * p["default"],
            percent(value),
            f"{100 * low:.0f}–{100 * high:.0f}",
            percent(p["escalation by steps"], 0),
            percent(p["wasted"], 0),
            percent(p["at limit"], 0),
            f"{seconds['mean'][0]:.3f}",
            f"{seconds['median']:.3f}",
            f"{seconds['p95']:.3f}",
        )
    return table
