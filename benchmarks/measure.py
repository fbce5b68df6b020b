"""What the measurements share: clocks, questions, checkpoints, processes of their own."""

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
    "apart",
    "compare",
    "peak_mib",
    "questions",
    "seconds",
    "solved",
    "store",
    "table",
]

CHECKPOINTS = {"draft": embedded.DRAFT, "target": embedded.TARGET}
SEED = 50  # of held-out problems


def questions(n: int) -> list[str]:
    """The first n of the problems that every throughput row is measured on."""
    return [problem.question for problem in embedded.problems(n, seed=SEED)]


def solved(texts: list[str]) -> float:
    """Part of the answers to `questions(len(texts))` that are right."""
    problems = embedded.problems(len(texts), seed=SEED)
    return sum(map(embedded.check_answer, problems, texts)) / len(texts)


def compare(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Median of what each side returns, the sides taking turns; the first turn warms up."""
    turns = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of a piece of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Most memory that this process has held so far."""
    status = Path("/proc/self/status")  # what `getrusage` tells begins with the parent's
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def apart(script: str, *arguments: Any) -> Any:
    """What a script beside this file prints as JSON, run in a process of its own.

    So its memory and its threads are its own, and nothing is warm that another side has warmed.
    """
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.decode().splitlines()[-1])


def store(found: dict[str, Any], path: Path) -> None:
    """Write figures as JSON, and print them."""
    text = json.dumps(found, indent=2)
    path.write_text(text + "\n")
    print(text)


def table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines of a Markdown table; numbers with two decimals, or none from 100 on."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
        return "" if value is None else str(value)

    lines = [heads, ["---"] * len(heads), *([cell(v) for v in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
