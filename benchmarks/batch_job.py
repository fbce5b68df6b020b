"""Measure seconds per question and memory of batch jobs of two sizes.

As a program, `batch_job.py QUESTIONS` runs one job in this process and prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import markdown_table, peak_mib, questions, run_isolated

__all__ = ["markdown", "measure"]

SIZES = (100, 1000)
CONCURRENCY = 32


def measure(scale: float) -> list[dict[str, Any]]:
    """Run a job of each size, multiplied by `scale`, in a new process."""
    rows = []
    for size in SIZES:
        print(f"running a job of {size} questions", file=sys.stderr)
        rows.append(run_isolated("batch_job.py", max(4, round(size * scale))))
    return rows


def run_job(size: int) -> dict[str, Any]:
    """Run a job after a warm-up that loads the models."""
    from langgraph_arbitrage import ChatArbitrage
    from langgraph_arbitrage.batch import run_batch

    llm = ChatArbitrage(max_tokens=300, max_slots=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder:
        warm_up = ({"prompt": question} for question in questions(CONCURRENCY))
        run_batch(llm, warm_up, Path(folder) / "warm-up.jsonl", concurrency=CONCURRENCY)
        before = peak_mib()
        records = ({"prompt": question} for question in questions(size))
        summary = run_batch(llm, records, Path(folder) / "answers.jsonl", concurrency=CONCURRENCY)
    return {
        "questions": summary.done,
        "failed": summary.failed,
        "seconds_per_question": summary.seconds / summary.done,
        "escalation_rate": summary.escalation_rate,
        "peak_mib": peak_mib(),
        "grown_mib": peak_mib() - before,
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Format the results as Markdown lines, with the growth from the small to the large job."""
    heads = ["questions", "failed", "ms per question", "escalated", "peak MiB", "MiB added by job"]
    body = [
        [
            row["questions"],
            row["failed"],
            1e3 * row["seconds_per_question"],
            f"{row['escalation_rate']:.0%}",
            f"{row['peak_mib']:.0f}",
            f"{row['grown_mib']:.0f}",
        ]
        for row in rows
    ]
    small, large = rows[0], rows[-1]
    growth = large["seconds_per_question"] / small["seconds_per_question"] - 1
    summary = (
        f"- From {small['questions']} to {large['questions']} questions, the time per question "
        f"changes by {growth:+.0%} (goal: below +15 %) and peak memory by "
        f"{large['peak_mib'] - small['peak_mib']:+.0f} MiB."
    )
    return [*markdown_table(heads, body), "", summary]


if __name__ == "__main__":
    print(json.dumps(run_job(int(sys.argv[1]))))
