"""The batch job on Ray beside the same job here: answers, questions a second, an actor killed.

    python benchmarks/ray_batch.py --questions 320

Four jobs of `arbitrage batch` over one file of held-out problems, on the embedded models: here, on
Ray with one actor and with two, and with two of which one is killed in the middle. Each is a
program of its own; what it takes until its first answer is told apart from its rate after that.
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

from langgraph_arbitrage.batch.ray_job import BATCHES
from measure import questions, store

RESULT = Path(__file__).parent / "results" / "ray.json"
LOOK = 0.02  # seconds between two looks at the output
JOBS: dict[str, tuple[str, ...]] = {
    "here": (),
    "one actor": ("--ray", "--actors", "1"),
    "two actors": ("--ray", "--actors", "2"),
    "one of two killed": ("--ray", "--actors", "2"),
}


def actors_of(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    """The processes of a job's actors."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any("MapWorker" in word for word in child.cmdline()[:1]):
                yield child
        except psutil.Error:
            continue


def run(
    source: Path, output: Path, options: tuple[str, ...], *, begun: int, kill_at: int | None
) -> Any:
    """Run a job, watching its output grow; kill an actor once so many answers are there.

    Its rate counts from when so many answers are there as it had `begun` with: an actor hands its
    questions back by whole batches.
    """
    command = [sys.executable, "-m", "langgraph_arbitrage.cli", "batch", str(source)]
    command += ["-o", str(output), "--max-tokens", "300", *options]
    start, seen = time.perf_counter(), [(0.0, 0)]  # seconds, answers
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    killed = False
    while process.poll() is None:
        count = output.read_bytes().count(b"\n") if output.exists() else 0
        if count > seen[-1][1]:
            seen.append((time.perf_counter() - start, count))
        if kill_at is not None and not killed and count >= kill_at:
            next(actors_of(process)).kill()
            killed = True
        time.sleep(LOOK)
    assert process.returncode == 0, process.returncode
    assert killed == (kill_at is not None)
    since, count = next((s, n) for s, n in seen if n >= begun)
    last, total = seen[-1]
    return {
        "whole_seconds": round(last, 1),
        "first_answer_seconds": round(seen[1][0], 1),
        "questions_per_second": round((total - count) / (last - since), 2),
    }


def answers(output: Path) -> dict[str, str]:
    """Each question's answer; every one has to be there, once."""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(row["error"] is None for row in rows)
    found = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"] for r in rows}
    assert len(found) == len(rows)
    return {name: message["content"] for name, message in found.items()}


def measure(size: int, concurrency: int) -> dict[str, Any]:
    """The figures of all jobs."""
    jobs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "questions.jsonl")
        lines = ({"custom_id": str(n), "prompt": q} for n, q in enumerate(questions(size)))
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        wanted: dict[str, str] = {}
        for name, options in JOBS.items():
            print(f"{name} …", file=sys.stderr)
            output = Path(folder, f"{name}.jsonl")
            actors = int(options[-1]) if options else 0
            batch = min(BATCHES * concurrency, -(-size // max(actors, 1)))
            told = run(
                source,
                output,
                ("--concurrency", str(concurrency), *options),
                begun=batch * actors or concurrency,
                kill_at=size // 3 if "killed" in name else None,
            )
            found = answers(output)
            wanted = wanted or found
            assert found.keys() == {str(n) for n in range(size)}, "lost"
            same = sum(found[key] == wanted[key] for key in wanted)
            jobs[name] = {**told, "same_answers": same}
    return {"questions": size, "concurrency": concurrency, "cpus": os.cpu_count(), "jobs": jobs}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=320)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    args = parser.parse_args()
    store(measure(args.questions, args.concurrency), args.output)


if __name__ == "__main__":
    main()
