"""`make bench`: what the engine and the loop cost, side by side in one run, on the embedded models.

Results go to benchmarks/results/bench.json and bench.md. With `--only PART` the other parts stay
there as they were measured before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.markdown import Markdown

import batch_job
import concurrency
import decoding
import evaluation

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "decoding": "One sequence at a time (ms)",
    "concurrency": "Many questions at a time",
    "batch": "Batch jobs, 32 questions at a time",
    "evaluation": "Policies, one question at a time, beside the last run that was committed",
}
TELL: dict[str, Callable[[Any], list[str]]] = {
    "decoding": decoding.lines,
    "concurrency": concurrency.lines,
    "batch": batch_job.lines,
    "evaluation": evaluation.lines,
}


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(TITLES), action="append", help="these parts")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of each decode comparison")
    parser.add_argument("--turns", type=int, default=2, help="of the sides of the concurrency part")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of questions")
    parser.add_argument(
        "--levels", type=int, nargs="+", choices=concurrency.LEVELS, default=concurrency.LEVELS
    )
    options = parser.parse_args()
    measure: dict[str, Callable[[], Any]] = {
        "decoding": lambda: decoding.measured(options.rounds),
        "concurrency": lambda: concurrency.measured(
            options.turns, options.scale, tuple(options.levels)
        ),
        "batch": lambda: batch_job.measured(options.scale),
        "evaluation": lambda: evaluation.measured(options.scale),
    }
    parts = {}
    for name in options.only or TITLES:
        start = time.perf_counter()
        rows = measure[name]()
        parts[name] = {
            "measured": time.strftime("%Y-%m-%d"),
            "seconds": time.perf_counter() - start,
            "scale": options.scale,
            "rows": rows,
        }
    save(parts)


def save(new: dict[str, Any]) -> None:
    """Print the new parts; write all."""
    path = RESULTS / "bench.json"
    parts = json.loads(path.read_text()).get("parts", {}) if path.is_file() else {}
    parts |= new
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    ordered = {name: parts[name] for name in TITLES if name in parts}
    path.write_text(json.dumps({**machine, "parts": ordered}, indent=2) + "\n")
    Console().print(Markdown("\n".join(told(new))))
    about = f"Medians; {', '.join(f'{k} {v}' for k, v in machine.items())}."
    (RESULTS / "bench.md").write_text("\n".join(["# make bench", "", about, *told(ordered)]) + "\n")


def told(parts: dict[str, Any]) -> list[str]:
    """Parts as Markdown."""
    lines = []
    for name, part in parts.items():
        took = f"{part['seconds']:.0f} s" + ("" if part["scale"] == 1 else ", not in full")
        title = f"## {TITLES[name]} ({part['measured']}, {took})"
        lines += ["", title, "", *TELL[name](part["rows"])]
    return lines


if __name__ == "__main__":
    main()
