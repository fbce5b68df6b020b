"""`arbitrage batch`: options, exit statuses, stdin and stdout, progress, Ray options."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from batch_lines import read, request_line, write
from langgraph_arbitrage.batch import BatchSettings


@pytest.fixture
def batch(arbitrage: Any, models: list[str], tmp_path: Path) -> Any:
    """Run the command on a file in `tmp_path`; returns its status, stdout and stderr."""

    def run(*argv: str, source: str = "in.jsonl", output: str = "out.jsonl") -> Any:
        files = [x if x == "-" else str(tmp_path / x) for x in (source, output)]
        return arbitrage("batch", files[0], "-o", files[1], *models, "--max-tokens", "6", *argv)

    return run


def test_a_file_of_requests_is_answered_into_a_file(batch: Any, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", *(request_line(n) for n in range(5)))
    status, out, err = batch("--concurrency", "2", "--policy", "random", "--timeout", "60")
    assert (status, out) == (0, "")
    assert {row["custom_id"] for row in read(tmp_path / "out.jsonl")} == {f"q{n}" for n in range(5)}
    figures = r"5 done, 0 failed · \d+ prompt \+ \d+ answer tokens · \d+% of the steps .*requests/s"
    assert re.match(figures, err)


def test_the_exit_status_says_whether_every_request_is_answered(batch: Any, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", request_line(0), b"not json")
    status, _, err = batch()
    assert status == 1
    assert "1 done, 1 failed" in err
    assert "--retry-failed answers them again" in err
    assert batch()[0] == 1  # the error record remains
    write(tmp_path / "in.jsonl", request_line(0), request_line(1))
    status, _, err = batch("--retry-failed")
    assert status == 0
    assert "1 done, 0 failed, 1 done before" in err
    status, _, err = batch()
    assert status == 0
    assert "0 done, 0 failed, 2 done before" in err


def test_a_job_stopped_by_max_time_prints_the_number_of_remaining_requests(
    batch: Any, tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", *(request_line(n) for n in range(5)))
    status, _, err = batch("--max-time", "0.0001")
    assert status == 1
    assert "5 remaining" in err
    assert "Stopped by max_time. Repeat the command to answer the remaining requests." in err


def test_stdin_and_stdout_can_be_input_and_output(
    batch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = b'{"prompt": "How many?"}\nnot json\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    status, out, _ = batch(source="-", output="-")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [row["response"]["status_code"] for row in rows] == [400, 200]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=pipe.write_bytes, args=(lines,))
    feeder.start()
    assert batch("--shard", "1/2", source="pipe", output="-")[0] == 0
    feeder.join()


def test_every_batch_setting_is_an_option_with_its_description(arbitrage: Any) -> None:
    help_text = " ".join(arbitrage("batch", "--help")[1].split())
    for name, field in BatchSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in help_text
        assert " ".join((field.description or "").split()) in help_text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--concurrency", "0"], "concurrency must be at least 1, not 0"),
        (["--concurrency", "few"], "invalid int value: 'few'"),
        (["--shard", "5/4"], "shard must be I/N"),
        (["--max-time", "-1"], "max_time must be above 0 seconds"),
        (["--timeout", "0"], "timeout must be above 0 seconds"),
        (["--threshold", "-2"], "must be a number of at least 0, not -2.0"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    argv: list[str], message: str, batch: Any, tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", request_line(0))
    status, out, err = batch(*argv)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_invalid_files_are_refused_in_one_line(batch: Any, tmp_path: Path) -> None:
    status, _, err = batch()
    assert status == 2
    assert "in.jsonl cannot be read: No such file or directory" in err
    write(tmp_path / "in.jsonl", request_line(0))
    write(tmp_path / "out.jsonl", {"id": "x", "custom_id": "y", "response": None, "error": {}})
    status, _, err = batch()
    assert status == 2
    assert "out.jsonl belongs to another job" in err
    assert err.count("\n") == 1


def test_without_a_terminal_progress_is_printed_as_lines(
    batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langgraph_arbitrage.cli.batch.LOG_INTERVAL", 0.0)
    write(tmp_path / "in.jsonl", *(request_line(n) for n in range(3)))
    _, _, err = batch("--concurrency", "1")
    assert re.match(r"1 of 3, \d+\.\d requests/s, 0:00:\d\d left\n2 of 3, .*\n3 of 3, ", err)


def test_a_terminal_shows_a_bar_with_rate_and_time_left(
    batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    write(tmp_path / "in.jsonl", *(request_line(n) for n in range(3)))
    _, _, err = batch()
    assert "3/3" in err
    assert "requests/s, 0:00:00 left" in err


def test_after_ctrl_c_the_same_command_resumes(
    batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langgraph_arbitrage.batch import BatchSummary

    count, pressed = BatchSummary.count, []

    def counting(self: BatchSummary, *args: Any, **kwargs: Any) -> None:
        count(self, *args, **kwargs)
        if self.done == 2 and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(BatchSummary, "count", counting)
    write(tmp_path / "in.jsonl", *(request_line(n) for n in range(9)))
    status, _, err = batch("--concurrency", "1")
    assert status == 130
    assert "2 done" in err
    assert len(read(tmp_path / "out.jsonl")) == 2
    assert batch()[0] == 0
    assert len(read(tmp_path / "out.jsonl")) == 9


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ray", "--actors", "0"], "actors must be at least 1, not 0"),
        (["--ray", "--cpus-per-actor", "0"], "cpus_per_actor must be above 0"),
        (["--ray", "--gpus-per-actor", "-1"], "gpus_per_actor must be at least 0"),
        (["--actors", "2"], "--actors requires --ray"),
    ],
)
def test_invalid_ray_options_are_refused(
    argv: list[str], message: str, batch: Any, tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", request_line(0))
    status, _, err = batch(*argv)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_ray_job_with_a_missing_local_model_starts_no_cluster(batch: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write(tmp_path / "in.jsonl", request_line(0))
    status, _, err = batch("--ray", "--target", "./no-such-folder")
    assert status == 2
    assert "./no-such-folder cannot be loaded as a model" in err


def test_a_ray_job_without_ray_names_the_extra_to_install(
    batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write(tmp_path / "in.jsonl", request_line(0))
    status, _, err = batch("--ray")
    assert status == 2
    assert "pip install 'langgraph-arbitrage[ray]'" in err
