"""After SIGKILL at any point, no record is lost and none is written twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_lines import SETTINGS, read, request_line, write
from langgraph_arbitrage import ChatArbitrage
from langgraph_arbitrage.batch import run_batch
from tiny import pair

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def line_count(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def kill_and_restart(
    start: Callable[[], int], output: Path, total: int, kills: int, max_lines: int
) -> int:
    """Kill a process repeatedly after a random number of lines; returns its final status.

    Args:
        start: Starts the job and returns its process id.
        output: Output of the job.
        total: Number of requests.
        kills: Number of kills.
        max_lines: Maximum number of lines between two kills.
    """
    rng, done = random.Random(0), 0
    while True:
        process = start()
        goal = line_count(output) + rng.randint(1, max_lines) if done < kills else total + 1
        while not (ended := os.waitpid(process, os.WNOHANG))[0] and line_count(output) < goal:
            time.sleep(0.001)
        if ended[0]:
            assert done == kills
            return os.waitstatus_to_exitcode(ended[1])
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        done += 1


def assert_each_answered_once(output: Path, total: int) -> None:
    rows = read(output)
    assert [row["response"]["status_code"] for row in rows] == [200] * total
    assert sorted(row["custom_id"] for row in rows) == sorted(f"q{n}" for n in range(total))


def test_a_repeatedly_killed_job_answers_each_request_once(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *(request_line(n, max_tokens=4) for n in range(30)))
    output = tmp_path / "out.jsonl"
    llm = ChatArbitrage(**SETTINGS | {"max_slots": 57})

    def start() -> int:
        child = os.fork()
        if not child:
            try:
                os._exit(not run_batch(llm, source, output, concurrency=4).succeeded)
            finally:
                os._exit(2)
        return child

    assert kill_and_restart(start, output, 30, kills=6, max_lines=4) == 0
    assert_each_answered_once(output, 30)


@pytest.mark.slow
def test_a_command_killed_twenty_times_answers_each_request_once(
    tmp_path: Path,
) -> None:
    source = write(tmp_path / "in.jsonl", *(request_line(n, max_tokens=4) for n in range(200)))
    output = tmp_path / "out.jsonl"
    models: list[Any] = [x for role, path in pair().items() for x in (f"--{role}", path)]
    command = [Path(sys.executable).with_name("arbitrage"), "batch", source, "-o", output]

    def start() -> int:
        job = subprocess.Popen(
            [*command, *models, "--concurrency", "8"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        job.returncode = 0  # `kill_and_restart` waits for the process
        return job.pid

    assert kill_and_restart(start, output, 200, kills=20, max_lines=9) == 0
    assert_each_answered_once(output, 200)
