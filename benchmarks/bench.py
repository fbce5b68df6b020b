"""`make bench`: measure the engine and the loop on the embedded models.

Results are written to benchmarks/results/bench.json and bench.md. `--only PART` keeps the results
of the other parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.markdown import Markdown

import batch_job
import concurrency
import decoding
import evaluation
from common import RESULTS

TITLES = {
    "decoding": "One sequence at a time (ms)",
    "concurrency": "Concurrent questions",
    "batch": "Batch jobs, 32 questions at a time",
    "evaluation": "Policies, one question at a time, compared with the last committed run",
}
MARKDOWN: dict[str, Callable[[Any], list[str]]] = {
    "decoding": decoding.markdown,
    "concurrency": concurrency.markdown,
    "batch": batch_job.markdown,
    "evaluation": evaluation.markdown,
}


def main() -> None:
    """Run the benchmarks, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=list(TITLES), action="append", help="run only this part; repeatable"
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds of each comparison of the decoding part"
    )
    parser.add_argument(
        "--turns", type=int, default=2, help="rounds of each side of the concurrency part"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the numbers of questions"
    )
    parser.add_argument(
        "--levels",
        type=int,
        nargs="+",
        choices=concurrency.LEVELS,
        default=concurrency.LEVELS,
        help="numbers of concurrent questions of the concurrency part",
    )
    options = parser.parse_args()
    measure: dict[str, Callable[[], Any]] = {
        "decoding": lambda: decoding.measure(options.rounds),
        "concurrency": lambda: concurrency.measure(
            options.turns, options.scale, tuple(options.levels)
        ),
        "batch": lambda: batch_job.measure(options.scale),
        "evaluation": lambda: evaluation.measure(options.scale),
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
    """Print the new parts, merge them into the stored results and write JSON and Markdown."""
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
    Console().print(Markdown("\n".join(markdown(new))))
    about = f"Medians; {', '.join(f'{k} {v}' for k, v in machine.items())}."
    page = ["# make bench", "", about, *markdown(ordered)]
    (RESULTS / "bench.md").write_text("\n".join(page) + "\n")


def markdown(parts: dict[str, Any]) -> list[str]:
    """Format parts as Markdown lines."""
    lines = []
    for name, part in parts.items():
        duration = f"{part['seconds']:.0f} s"
        if part["scale"] != 1:
            duration += f", scale {part['scale']:g}"
        title = f"## {TITLES[name]} ({part['measured']}, {duration})"
        lines += ["", title, "", *MARKDOWN[name](part["rows"])]
    return lines


if __name__ == "__main__":
    main()
