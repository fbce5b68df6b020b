"""Accuracy, time and escalations of several teams on the same problems."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from langgraph_arbitrage.embedded.problems import Problem
    from langgraph_arbitrage.runner import Answer, Runner

__all__ = ["Row", "scoreboard"]


@dataclass
class Row:
    """A row of the table: a team, and what it answered so far."""

    name: str
    runner: Runner
    answers: list[tuple[Answer, bool]] = field(default_factory=list)
    """Each answer, and whether it is right."""


def scoreboard(asked: Sequence[Problem], rows: Sequence[Row], total: int) -> Table:
    """The table of the demo.

    Args:
        asked: The problems that all rows have answered, in order.
        rows: One of them is "target only", which the speed-up compares with.
        total: How many problems there would have been.
    """
    target = next(row for row in rows if row.name == "target only")
    pace = statistics.mean(answer.seconds for answer, _ in target.answers)
    count = f"{len(asked)} of {total}" if len(asked) < total else f"{total}"
    easy = sum(not p.hard for p in asked)
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{count} held-out problems, greedy, one at a time",
        caption=f"Learned: accuracy on the {easy} problems without a step that neither model has "
        f"learned. Speed-up: mean seconds of target only over the row's. Policy: "
        f"{rows[-1].runner.policy}.",
        caption_justify="left",
    )
    table.add_column("")
    for head in ("accuracy", "learned", "median s", "mean s", "escalated", "speed-up"):
        table.add_column(head, justify="right")
    for row in rows:
        right = [ok for _, ok in row.answers]
        learned = [ok for ok, problem in zip(right, asked, strict=True) if not problem.hard]
        seconds = [answer.seconds for answer, _ in row.answers]
        steps = [step for answer, _ in row.answers for step in answer.statistics["steps"]]
        table.add_row(
            row.name,
            f"{statistics.mean(right):.0%}",
            f"{statistics.mean(learned):.0%}" if learned else "–",
            f"{statistics.median(seconds):.3f}",
            f"{statistics.mean(seconds):.3f}",
            f"{statistics.mean(step['writer'] == 'target' for step in steps):.0%}",
            f"{pace / statistics.mean(seconds):.2f}×",
        )
    return table
