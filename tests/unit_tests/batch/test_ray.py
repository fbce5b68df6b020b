"""Ray jobs give the answers of local jobs, even if an actor dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from batch_lines import read, request_line, write
from langgraph_arbitrage import ChatArbitrage
from langgraph_arbitrage.batch import Answers, RaySettings, run_batch
from langgraph_arbitrage.errors import CheckpointError, SettingsError
from tiny import pair

SETTINGS: dict[str, Any] = {**pair(endless=True, words=True), "max_tokens": 40}


def by_id(rows: list[Any]) -> dict[str, str]:
    contents = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows
        if row["error"] is None
    }
    assert len(contents) == len(rows)
    return contents


def local_answers(lines: list[Any], tmp_path: Path) -> dict[str, str]:
    run_batch(ChatArbitrage(**SETTINGS), lines, tmp_path / "local.jsonl")
    return by_id(read(tmp_path / "local.jsonl"))


# --- without Ray -------------------------------------------------------------------------


def test_an_actor_gives_the_answers_of_a_local_job_in_row_order(
    tmp_path: Path,
) -> None:
    lines = [{"prompt": f"How many? {n}", "custom_id": f"q{n}"} for n in range(6)]
    answers = Answers(SETTINGS, concurrency=3)
    columns = {name: [line[name] for line in lines] for name in ("prompt", "custom_id")}
    results = list(answers(columns))
    assert [row["custom_id"] for row in results] == [[f"q{n}"] for n in range(6)]
    assert by_id([json.loads(row["line"][0]) for row in results]) == local_answers(lines, tmp_path)


def test_an_invalid_row_yields_an_error_record() -> None:
    results = list(Answers(SETTINGS)({"prompt": ["", "Hi"], "max_tokens": [4, 4]}))
    errors = [json.loads(row["line"][0])["error"] for row in results]
    assert "non-empty" in errors[0]["message"]
    assert errors[1] is None


def test_a_missing_model_raises_in_the_actor() -> None:
    with pytest.raises(CheckpointError):
        Answers({"draft": "./no-such-folder"})


@pytest.mark.parametrize(
    ("settings", "cpus", "share"),
    [
        ({}, 8, 1.0),
        ({"actors": 2}, 2, 0.75),
        ({"actors": 4}, 2, 0.37),
        ({"actors": 2, "cpus_per_actor": 0.5}, 2, 0.5),
        ({"actors": 1, "cpus_per_actor": 4}, 8, 4),
    ],
)
def test_actors_leave_cpus_to_ray(settings: dict[str, Any], cpus: float, share: float) -> None:
    assert RaySettings(**settings).cpus(cpus) == share


def test_actors_that_exceed_the_cluster_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"2 actors with 1 CPUs .* at most cpus_per_actor=0.75"):
        RaySettings(actors=2, cpus_per_actor=1).cpus(2)
    with pytest.raises(SettingsError, match=r"1 GPUs each need 2 GPUs, .* has 1. Use fewer"):
        RaySettings(actors=2, gpus_per_actor=1).check_gpus(1)


# --- with Ray, run by the command ----------------------------------------------------


def command(source: Path, output: Path, *more: str) -> list[str]:
    options = ["--max-tokens", str(SETTINGS["max_tokens"]), "--concurrency", "4"]
    models = ["--draft", SETTINGS["draft"], "--target", SETTINGS["target"]]
    program = [sys.executable, "-m", "langgraph_arbitrage.cli", "batch", str(source)]
    return [*program, "-o", str(output), *models, *options, "--ray", *more]


def actors_of(process: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[:1] and "MapWorker" in child.cmdline()[0]:
                yield child
        except psutil.Error:
            continue


@pytest.mark.slow
def test_two_actors_give_the_local_answers_even_if_one_dies(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    lines = [request_line(n) for n in range(160)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, *lines)
    process = subprocess.Popen(
        command(source, output, "--actors", "2"), stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not output.exists() or len(output.read_bytes().splitlines()) < 5:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    killed = next(actors_of(process))
    killed.send_signal(signal.SIGKILL)
    stderr = process.communicate(timeout=180)[1]
    assert process.returncode == 0, stderr
    assert "160 done, 0 failed" in stderr
    assert by_id(read(output)) == local_answers(lines, tmp_path)


@pytest.mark.slow
def test_a_local_job_is_resumed_on_ray_and_a_full_cluster_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    lines = [request_line(n) for n in range(12)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, *lines)
    run_batch(ChatArbitrage(**SETTINGS), lines[:0] or source, output, shard="1/3")
    greedy = command(source, output, "--actors", "64", "--cpus-per-actor", "4")
    refused = subprocess.run(greedy, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "to Ray's own tasks and deadlock" in refused.stderr
    done = subprocess.run(command(source, output), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 done, 0 failed, 4 done before" in done.stderr
    assert by_id(read(output)) == local_answers(lines, tmp_path)
