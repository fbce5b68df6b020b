"""A batch job of few questions and of many: seconds a question, and memory.

As a program, `batch_job.py QUESTIONS` runs one job in this process and prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import apart, peak_mib, questions, table

__all__ = ["lines", "measured"]

SIZES = (100, 1000)
CONCURRENCY = 32


def measured(scale: float) -> list[dict[str, Any]]:
    """A row for each size."""
    rows = []
    for size in SIZES:
        print(f"a job of {size} questions …", file=sys.stderr)
        rows.append(apart("batch_job.py", max(4, round(size * scale))))
    return rows


def one_job(size: int) -> dict[str, Any]:
    """Run a job; models are loaded before it begins."""
    from langgraph_arbitrage import ChatArbitrage
    from langgraph_arbitrage.batch import run_batch

    llm = ChatArbitrage(max_tokens=300, max_slots=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder:
        warm_up = ({"prompt": question} for question in questions(CONCURRENCY))
        run_batch(llm, warm_up, Path(folder) / "warm-up.jsonl", concurrency=CONCURRENCY)
        before = peak_mib()
        asked = ({"prompt": question} for question in questions(size))
        done = run_batch(llm, asked, Path(folder) / "answers.jsonl", concurrency=CONCURRENCY)
    return {
        "questions": done.done,
        "failed": done.failed,
        "seconds_per_question": done.seconds / done.done,
        "escalation_rate": done.escalation_rate,
        "peak_mib": peak_mib(),
        "grown_mib": peak_mib() - before,
    }


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown, and how they grow."""
    heads = ["questions", "failed", "ms a question", "escalated", "peak MiB", "grown MiB"]
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
    few, many = rows[0], rows[-1]
    grows = many["seconds_per_question"] / few["seconds_per_question"] - 1
    told = (
        f"- Seconds a question, {many['questions']} against {few['questions']}: {grows:+.0%} "
        f"(promise: below +15 %); peak memory {many['peak_mib'] - few['peak_mib']:+.0f} MiB."
    )
    return [*table(heads, body), "", told]


if __name__ == "__main__":
    print(json.dumps(one_job(int(sys.argv[1]))))
