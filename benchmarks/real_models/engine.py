"""The engine on real models on this CPU: beside transformers, and beside another checkout.

All sides are loaded in processes of their own and measured in turn. A ratio above 1 means that the
engine of this checkout is faster; the interval is a 90 % bootstrap interval of the median ratio.

    python benchmarks/real_models/engine.py --models DIR [--against CHECKOUT] [--rounds 9]
        [--only qwen2.5-coder-0.5b-instruct] [--dtypes bfloat16] [--parts cells serve]

DIR holds checkpoint folders. Results are kept in benchmarks/results/real_engine.json, a cell each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "real_engine"
CELLS: list[dict[str, int]] = [{"decode": 1}, {"decode": 8}, {"read": 32}, {"read": 256}]
SERVED: list[dict[str, int]] = [
    {"serve": 1}, {"serve": 8}, {"serve": 32}, {"serve": 8, "long": 4096},
]  # fmt: skip


class Side:
    """A worker process."""

    def __init__(self, model: Path, dtype: str, side: str, checkout: Path | None) -> None:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        if checkout is not None:
            env["PYTHONPATH"] = str(checkout)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), str(model), dtype, side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        self._answer()

    def _answer(self) -> Any:
        while line := self.process.stdout.readline():
            if line.startswith(('"ready"', *"0123456789")):
                return json.loads(line)
        raise RuntimeError("a worker has failed; run worker.py by hand to see why")

    def ask(self, command: dict[str, int]) -> float:
        """The worker's figure."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def interval(ratios: list[float]) -> tuple[float, float]:
    """90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[100], medians[1899]


def measure(
    sides: dict[str, Side], commands: list[dict[str, int]], rounds: int
) -> list[dict[str, Any]]:
    """Each command on each side, in turn."""
    rows = []
    for command in commands:
        found: dict[str, list[float]] = {name: [] for name in sides}
        for n in range(rounds + 1):
            order = list(sides) if n % 2 else list(sides)[::-1]
            for name in order:
                value = sides[name].ask(command)
                if n:  # the first round warms up
                    found[name].append(value)
        row: dict[str, Any] = {"command": command}
        for name, values in found.items():
            row[name] = statistics.median(values)
            if name != "engine":
                pairs = list(zip(values, found["engine"], strict=True))
                ratios = [e / v if "serve" in command else v / e for v, e in pairs]
                row[f"over {name}"] = [statistics.median(ratios), *interval(ratios)]
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the results as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--parts", nargs="+", choices=["cells", "serve"], default=["cells"])
    options = parser.parse_args()
    file = RESULTS.with_suffix(".json")
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name in options.only or sorted(p.parent.name for p in options.models.glob("*/config.json")):
        for dtype in options.dtypes:
            for part in options.parts:
                sides = {"engine": Side(options.models / name, dtype, "engine", None)}
                if options.against:
                    sides["before"] = Side(options.models / name, dtype, "engine", options.against)
                sides["generate"] = Side(options.models / name, dtype, "generate", None)
                if part == "serve":
                    sides["batching"] = Side(options.models / name, dtype, "batching", None)
                rows = measure(sides, CELLS if part == "cells" else SERVED, options.rounds)
                for side in sides.values():
                    side.close()
                results[f"{name} {dtype} {part}"] = rows
                file.write_text(json.dumps(results, indent=1) + "\n")
                RESULTS.with_suffix(".md").write_text(table(results))


def table(results: dict[str, Any]) -> str:
    """The results as a page."""
    lines = ["# The engine on real models", "", *__doc__.strip().splitlines()[2:4], ""]
    for title, rows in results.items():
        unit = "tokens a second" if title.endswith("serve") else "ms"
        names = [k for k in rows[0] if k != "command" and not k.startswith("over")]
        heads = [unit, *names, *(f"over {n}" for n in names if n != "engine")]
        lines += [f"## {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in rows:
            what = ", ".join(f"{k} {v}" for k, v in row["command"].items())
            cells = [f"{row[n]:.1f}" for n in names]
            cells += [
                "{:.2f} ({:.2f}–{:.2f})".format(*row[f"over {n}"]) for n in names if n != "engine"
            ]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
