"""The figures as tables: a CSV of all points, and what the terminal shows."""

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
NOTHING = 0.05
"""Accuracy below which speed-ups at equal accuracy say nothing."""

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
    "errors": lambda p: len(p["errors"]),
    "graded_late": lambda p: p["graded late"],
}
"""Columns of the CSV; tokens and steps are means a question, shares are from 0 to 1."""


def save_points(results: Results, folder: Path) -> Path:
    """The CSV."""
    path = folder / POINTS
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for point in results["points"]:
            cells = [find(point) for find in COLUMNS.values()]
            writer.writerow([f"{c:.6g}" if isinstance(c, float) else c for c in cells])
    return path


def percent(value: float | None, digits: int = 1) -> str:
    """A share for readers."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(values: Any, scale: float = 1, digits: int = 2, unit: str = "") -> str:
    """A number and its interval for readers."""
    value, low, high = values
    if value is None:
        return "not reached"
    ends = " – ".join("…" if end is None else f"{scale * end:.{digits}f}" for end in (low, high))
    return f"{scale * value:.{digits}f}{unit} ({ends})"


def headlines(results: Results) -> list[str]:
    """What the sweep says in a few sentences."""
    if all(p["accuracy"][0] < NOTHING for p in results["points"]):
        return ["Next to nothing is right at any point: these models cannot do this task."]
    within = results["within"]
    about = f"within {100 * within:g} point{'s' * (within != 0.01)} of the target's accuracy"
    told = []
    for row in results["speed-up at equal accuracy"]:
        at = row["at"][f"{within:g}"]
        if at[0] is not None and row["kind"] not in ("draft", "oracle", "exact"):
            told.append(f"{KINDS[row['kind']].title} {interval(at, unit='×')}")
    lines = []
    if told:
        lines.append(f"Speed-up over the target alone, {about}: {'; '.join(told)}.")
    elif any(p["kind"] == "target" for p in results["points"]):
        lines.append(f"No policy comes {about}.")
    return lines


def points_table(results: Results) -> Table:
    """All points, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    n, level = len(results["questions"]), results["confidence"]
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{n:,} questions of {results['about']['dataset']}",
        caption=f"accuracy with its {level:.0%} interval; * the policy's own default; escalated: "
        "share of the steps; seconds a question",
        caption_justify="left",
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    heads = ("accuracy", "from–to", "escalated", "wasted", "mean s", "median", "95th")
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
            f"{seconds['mean'][0]:.3f}",
            f"{seconds['median']:.3f}",
            f"{seconds['p95']:.3f}",
        )
    return table
