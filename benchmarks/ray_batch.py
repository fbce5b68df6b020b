"""Compare a batch job on Ray with the same job without Ray: answers, throughput, a killed actor.

    python benchmarks/ray_batch.py --questions 320

Runs `arbitrage batch` four times on one file of held-out problems with the embedded models: without
Ray, on Ray with one actor, with two actors, and with two actors of which one is killed midway. Each
job is a new process. The time to the first answer and the throughput afterwards are measured
separately.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from common import RESULTS, questions, save_json
from langgraph_arbitrage.batch.ray_job import BATCHES

POLL_SECONDS = 0.02
"""Interval at which the output file is read."""
JOBS: dict[str, tuple[str, ...]] = {
    "without Ray": (),
    "one actor": ("--ray", "--actors", "1"),
    "two actors": ("--ray", "--actors", "2"),
    "one of two killed": ("--ray", "--actors", "2"),
}


def actors_of(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    """Yield the actor processes of a job."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any("MapWorker" in word for word in child.cmdline()[:1]):
                yield child
        except psutil.Error:
            continue


def run(
    source: Path, output: Path, options: tuple[str, ...], *, first_answers: int, kill_at: int | None
) -> Any:
    """Run a job and measure it by the growth of its output file.

    Args:
        source: Path to the questions.
        output: Path to the answers.
        options: Further command-line options.
        first_answers: Throughput is measured after this number of answers. An actor returns whole
            batches, so this is the number of questions in progress at the start.
        kill_at: Kill an actor after this number of answers; None kills none.
    """
    command = [sys.executable, "-m", "langgraph_arbitrage.cli", "batch", str(source)]
    command += ["-o", str(output), "--max-tokens", "300", *options]
    start, progress = time.perf_counter(), [(0.0, 0)]  # (seconds, answers)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    killed = False
    while process.poll() is None:
        count = output.read_bytes().count(b"\n") if output.exists() else 0
        if count > progress[-1][1]:
            progress.append((time.perf_counter() - start, count))
        if kill_at is not None and not killed and count >= kill_at:
            next(actors_of(process)).kill()
            killed = True
        time.sleep(POLL_SECONDS)
    assert process.returncode == 0, process.returncode
    assert killed == (kill_at is not None)
    since, count = next((s, n) for s, n in progress if n >= first_answers)
    last, total = progress[-1]
    return {
        "whole_seconds": round(last, 1),
        "first_answer_seconds": round(progress[1][0], 1),
        "questions_per_second": round((total - count) / (last - since), 2),
    }


def answers(output: Path) -> dict[str, str]:
    """Return the answers by question id. Fails on errors and duplicates."""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(row["error"] is None for row in rows)
    messages = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"] for r in rows}
    assert len(messages) == len(rows)
    return {name: message["content"] for name, message in messages.items()}


def measure(size: int, concurrency: int) -> dict[str, Any]:
    """Run all jobs and compare their answers with those of the first."""
    jobs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "questions.jsonl")
        lines = ({"custom_id": str(n), "prompt": q} for n, q in enumerate(questions(size)))
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        expected: dict[str, str] = {}
        for name, options in JOBS.items():
            print(f"running {name}", file=sys.stderr)
            output = Path(folder, f"{name}.jsonl")
            actors = int(options[-1]) if options else 0
            batch = min(BATCHES * concurrency, -(-size // max(actors, 1)))
            statistics = run(
                source,
                output,
                ("--concurrency", str(concurrency), *options),
                first_answers=batch * actors or concurrency,
                kill_at=size // 3 if "killed" in name else None,
            )
            texts = answers(output)
            expected = expected or texts
            assert texts.keys() == {str(n) for n in range(size)}, "answers are missing"
            same = sum(texts[key] == expected[key] for key in expected)
            jobs[name] = {**statistics, "same_answers": same}
    return {"questions": size, "concurrency": concurrency, "cpus": os.cpu_count(), "jobs": jobs}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=320)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "ray.json")
    args = parser.parse_args()
    save_json(measure(args.questions, args.concurrency), args.output)


if __name__ == "__main__":
    main()
