"""Shared helpers of the benchmarks: timing, questions, checkpoints, subprocesses and tables."""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langgraph_arbitrage import embedded

__all__ = [
    "CHECKPOINTS",
    "RESULTS",
    "accuracy",
    "alternating_medians",
    "elapsed",
    "markdown_table",
    "peak_mib",
    "questions",
    "run_isolated",
    "save_json",
]

RESULTS = Path(__file__).parent / "results"
CHECKPOINTS = {"draft": embedded.DRAFT, "target": embedded.TARGET}
SEED = 50
"""Seed of the held-out problems."""


def questions(n: int) -> list[str]:
    """Return the first n held-out problems. All throughput measurements use them."""
    return [problem.question for problem in embedded.problems(n, seed=SEED)]


def accuracy(texts: list[str]) -> float:
    """Return the fraction of right answers to `questions(len(texts))`."""
    problems = embedded.problems(len(texts), seed=SEED)
    return sum(map(embedded.check_answer, problems, texts)) / len(texts)


def alternating_medians(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Return the median result of each side. The sides alternate; the first round is a warm-up."""
    results = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*results, strict=True)]


def elapsed(work: Callable[[], Any]) -> float:
    """Run `work` and return its wall-clock seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Return the peak memory of this process in MiB."""
    status = Path("/proc/self/status")  # ru_maxrss would include the parent's peak before exec
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run_isolated(script: str, *arguments: Any) -> Any:
    """Run a script of this folder in a new process and parse the last line of its output as JSON.

    The new process has its own memory, threads and caches.
    """
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.decode().splitlines()[-1])


def save_json(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON and print them."""
    text = json.dumps(results, indent=2)
    path.write_text(text + "\n")
    print(text)


def markdown_table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    """Format a Markdown table as lines. Floats get two decimals, or none from 100 on."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
        return "" if value is None else str(value)

    lines = [heads, ["---"] * len(heads), *([cell(v) for v in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
