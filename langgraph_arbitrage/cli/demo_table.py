"""The table of `arbitrage demo`: accuracy, time and escalation rate of several policies."""

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

__all__ = ["PolicyAnswers", "demo_table"]


@dataclass
class PolicyAnswers:
    """The answers of one policy, shown as a row of the table."""

    name: str
    runner: Runner
    answers: list[tuple[Answer, bool]] = field(default_factory=list)
    """Each answer, and whether it is right."""


def demo_table(problems: Sequence[Problem], rows: Sequence[PolicyAnswers], total: int) -> Table:
    """Build the table.

    Args:
        problems: Problems that all policies have answered, in order.
        rows: Answers of each policy. The speed-ups are relative to the row "target only".
        total: Number of problems if the demo is not interrupted.
    """
    target = next(row for row in rows if row.name == "target only")
    target_seconds = statistics.mean(answer.seconds for answer, _ in target.answers)
    count = f"{len(problems)} of {total}" if len(problems) < total else f"{total}"
    easy = sum(not p.hard for p in problems)
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{count} held-out problems, greedy, one at a time",
        caption=f"learned: accuracy on the {easy} problems whose steps the models were trained "
        "on. speed-up: mean seconds of target only divided by those of the row. "
        f"Policy: {rows[-1].runner.policy}.",
        caption_justify="left",
    )
    table.add_column("")
    for head in ("accuracy", "learned", "median s", "mean s", "escalated", "speed-up"):
        table.add_column(head, justify="right")
    for row in rows:
        right = [is_right for _, is_right in row.answers]
        learned = [is_right for is_right, p in zip(right, problems, strict=True) if not p.hard]
        seconds = [answer.seconds for answer, _ in row.answers]
        steps = [step for answer, _ in row.answers for step in answer.statistics["steps"]]
        table.add_row(
            row.name,
            f"{statistics.mean(right):.0%}",
            f"{statistics.mean(learned):.0%}" if learned else "–",
            f"{statistics.median(seconds):.3f}",
            f"{statistics.mean(seconds):.3f}",
            f"{statistics.mean(step['writer'] == 'target' for step in steps):.0%}",
            f"{target_seconds / statistics.mean(seconds):.2f}×",
        )
    return table
