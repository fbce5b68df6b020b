"""Compare the engine on real models on a CPU with transformers and with another checkout.

Each side runs in a process of its own; the sides alternate. A ratio above 1 means that the engine
of this checkout is faster. Intervals are 90 % bootstrap intervals of the median ratio.

    python benchmarks/real_models/engine.py --models DIR [--against CHECKOUT] [--rounds 9]
        [--only qwen2.5-coder-0.5b-instruct] [--dtypes bfloat16] [--parts cells serve]

DIR contains checkpoint folders. Results are written to benchmarks/results/real_engine.json and .md
after each part; the results of other models are kept.
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
SERVE_CELLS: list[dict[str, int]] = [
    {"serve": 1}, {"serve": 8}, {"serve": 32}, {"serve": 8, "long": 4096},
]  # fmt: skip
"""Commands of `worker.py`."""


class WorkerProcess:
    """A process that runs `worker.py` for one side.

    Args:
        model: Path to the checkpoint.
        dtype: Dtype of the weights.
        side: `engine`, `generate` or `batching`.
        checkout: Checkout whose package is measured. Default: this one.
    """

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
        self._read()

    def _read(self) -> Any:
        while line := self.process.stdout.readline():
            if line.startswith(('"ready"', *"0123456789")):
                return json.loads(line)
        raise RuntimeError("a worker process failed: run worker.py directly to see the error")

    def measure(self, command: dict[str, int]) -> float:
        """Send a command and return the measured value."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def interval(ratios: list[float]) -> tuple[float, float]:
    """Compute the 90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[100], medians[1899]


def measure(
    sides: dict[str, WorkerProcess], commands: list[dict[str, int]], rounds: int
) -> list[dict[str, Any]]:
    """Run each command on each side, alternating the order of the sides."""
    rows = []
    for command in commands:
        results: dict[str, list[float]] = {name: [] for name in sides}
        for n in range(rounds + 1):
            order = list(sides) if n % 2 else list(sides)[::-1]
            for name in order:
                value = sides[name].measure(command)
                if n:  # round 0 is a warm-up
                    results[name].append(value)
        row: dict[str, Any] = {"command": command}
        for name, values in results.items():
            row[name] = statistics.median(values)
            if name != "engine":
                pairs = list(zip(values, results["engine"], strict=True))
                ratios = [e / v if "serve" in command else v / e for v, e in pairs]
                row[f"over {name}"] = [statistics.median(ratios), *interval(ratios)]
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure all models and write the results after each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--against", type=Path, help="checkout of another commit")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each side")
    parser.add_argument("--only", nargs="+", help="names of checkpoints; default: all")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--parts", nargs="+", choices=["cells", "serve"], default=["cells"])
    options = parser.parse_args()
    file = RESULTS.with_suffix(".json")
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name in options.only or sorted(p.parent.name for p in options.models.glob("*/config.json")):
        for dtype in options.dtypes:
            for part in options.parts:
                sides = {"engine": WorkerProcess(options.models / name, dtype, "engine", None)}
                if options.against:
                    sides["before"] = WorkerProcess(
                        options.models / name, dtype, "engine", options.against
                    )
                sides["generate"] = WorkerProcess(options.models / name, dtype, "generate", None)
                if part == "serve":
                    sides["batching"] = WorkerProcess(
                        options.models / name, dtype, "batching", None
                    )
                rows = measure(sides, CELLS if part == "cells" else SERVE_CELLS, options.rounds)
                for side in sides.values():
                    side.close()
                results[f"{name} {dtype} {part}"] = rows
                file.write_text(json.dumps(results, indent=1) + "\n")
                RESULTS.with_suffix(".md").write_text(markdown(results))


def markdown(results: dict[str, Any]) -> str:
    """Format the results as Markdown."""
    lines = ["# The engine on real models", "", *__doc__.strip().splitlines()[2:4], ""]
    for title, rows in results.items():
        unit = "tokens/s" if title.endswith("serve") else "ms"
        names = [k for k in rows[0] if k != "command" and not k.startswith("over")]
        heads = [unit, *names, *(f"over {n}" for n in names if n != "engine")]
        lines += [f"## {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in rows:
            command = ", ".join(f"{k} {v}" for k, v in row["command"].items())
            cells = [f"{row[n]:.1f}" for n in names]
            cells += [
                "{:.2f} ({:.2f}–{:.2f})".format(*row[f"over {n}"]) for n in names if n != "engine"
            ]
            lines.append(f"| {command} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
