"""`arbitrage ask --thread` and `arbitrage replay`: threads stored in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tiny import pair

QUESTION = "Ann has 3 apples and buys 4. How many has she?"
STEPS = ["--separator", " ", "--policy", "random", "--threshold", "0.5", "--max-steps", "6"]


@pytest.fixture(scope="session")
def models():
    """Options that select two models that write words without end."""
    paths = pair(endless=True, words=True)
    return ["--draft", paths["draft"], "--target", paths["target"]]


@pytest.fixture
def file(tmp_path):
    return ["--checkpoint", str(tmp_path / "c.sqlite")]


def texts(out):
    """Writer and text of each printed step."""
    line = re.compile(r"(draft|target|human) +(?:\d\.\d\d)? +\d+\.\d\d s  (.*)")
    matches = [line.match(x) for x in out.splitlines()]
    return [m.groups() for m in matches if m]


@pytest.fixture
def stored(arbitrage, models, file):
    """The output of a run that is stored in thread 1."""
    status, out, _ = arbitrage("ask", QUESTION, *models, *STEPS, *file, "--thread", "1")
    assert status == 0
    return out


def test_a_stored_run_is_replayed_without_loading_a_model(arbitrage, file, stored, loads):
    status, out, _ = arbitrage("replay", *file, "--thread", "1")
    assert status == 0
    assert out.startswith(QUESTION)
    assert texts(out) == texts(stored)
    assert len(texts(out)) == 6
    assert out.rstrip().endswith("stopped by --max-steps")
    assert loads == []


def test_asking_a_finished_thread_shows_its_answer(arbitrage, models, file, stored, loads):
    status, out, _ = arbitrage("ask", *models, *file, "--thread", "1")
    assert status == 0
    assert texts(out) == texts(stored)
    assert "Thread 1 was already finished" in out
    assert loads == []


def test_a_further_question_continues_the_conversation(arbitrage, file, stored):
    """Without model options, the thread's own models answer."""
    status, _, _ = arbitrage("ask", "How many?", *STEPS, *file, "--thread", "1")
    assert status == 0
    status, out, _ = arbitrage("replay", *file, "--thread", "1")
    assert out.startswith("How many?")


@pytest.mark.slow
def test_a_killed_run_resumes_after_its_last_step(arbitrage, models, file, stored):
    """The run is a separate process, killed by SIGKILL once two steps are printed."""
    long = [*models, *STEPS[:-1], "12", *file, "--thread", "2"]
    code = "import sys; from langgraph_arbitrage.cli import main; sys.exit(main(sys.argv[1:]))"
    program = [sys.executable, "-u", "-c", code]
    running = subprocess.Popen(
        [*program, "ask", QUESTION, *long],
        stdout=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "80"},
    )
    lines = [running.stdout.readline() for _ in range(2)]
    running.send_signal(signal.SIGKILL)
    running.communicate()
    status, out, _ = arbitrage("ask", *long)
    assert status == 0
    assert len(texts(out)) == 12
    assert out.encode().startswith(b"".join(lines))
    assert texts(out)[:6] == texts(stored)
    assert "already finished" not in out


def test_a_running_thread_is_followed(arbitrage, models, file):
    from langgraph_arbitrage.cli import main

    long = [*models, *STEPS[:-1], "30", *file, "--thread", "1"]
    running = threading.Thread(target=main, args=[["ask", QUESTION, *long, "--json"]])
    running.start()
    while arbitrage("replay", *file, "--thread", "1")[0]:
        time.sleep(0.05)  # until the thread exists
    status, out, _ = arbitrage("replay", *file, "--thread", "1", "--follow")
    running.join()
    assert status == 0
    assert len(texts(out)) == 30
    assert "stopped by --max-steps" in out


def test_a_fork_continues_from_a_step_in_a_new_thread(arbitrage, file, stored):
    how = ["--fork", "2", *STEPS[:2], "--max-steps", "8", "--policy", "target"]
    status, out, _ = arbitrage("replay", *file, "--thread", "1", *how)
    assert status == 0
    assert texts(out)[:2] == texts(stored)[:2]
    assert [w for w, _ in texts(out)[2:]] == ["target"] * 6
    assert "thread 1-fork-2: forked from step 2 of 1 · computed tokens: " in out
    assert texts(arbitrage("replay", *file, "--thread", "1")[1]) == texts(stored)
    assert texts(arbitrage("replay", *file, "--thread", "1-fork-2")[1]) == texts(out)


def test_a_fork_can_start_with_an_edited_step(arbitrage, file, stored):
    how = ["--fork", "1", "--text", "seven", "--into", "other", *STEPS]
    status, out, _ = arbitrage("replay", *file, "--thread", "1", *how)
    assert status == 0
    assert texts(out)[0] == texts(stored)[0]
    assert texts(out)[1] == ("human", "seven")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["replay", "--thread", "nobody"], "thread 'nobody' does not exist"),
        (["replay", "--thread", "1", "--fork", "6"], "no step 6: it has steps 0 to 5"),
        (["replay", "--thread", "1", "--fork", "1", "--into", "1"], "exists already"),
        (["replay", "--thread", "1", "--text", "seven"], "--into and --text require --fork K"),
        (["replay", "--thread", "1", "--speed", "-1"], "--speed must be 0 or more"),
        (["ask", "How many?"], "--thread ID and --checkpoint FILE must be used together"),
        (["ask", "a", "b", "--thread", "1"], "--thread accepts one question"),
    ],
)
def test_invalid_requests_are_refused(arbitrage, file, stored, argv, message):
    status, _, err = arbitrage(*argv, *file)
    assert status == 2
    assert message in err


def test_a_file_without_threads_is_refused(arbitrage, tmp_path):
    other = tmp_path / "notes.txt"
    argv = ("replay", "--thread", "1", "--checkpoint", str(other))
    assert "does not exist or is not a file" in arbitrage(*argv)[2]
    assert not other.exists()
    other.write_text("not a database " * 100)
    status, _, err = arbitrage(*argv)
    assert status == 2
    assert "cannot be used as a checkpoint file" in err


def test_a_missing_extra_is_named_with_its_install_command(arbitrage, file, monkeypatch):
    monkeypatch.setattr("langgraph_arbitrage.cli.thread.find_spec", lambda name: None)
    status, _, err = arbitrage("ask", "How many?", *file, "--thread", "1")
    assert status == 2
    assert "pip install 'langgraph-arbitrage[sqlite]'" in err


def test_a_terminal_shows_writers_in_colour(arbitrage, file, stored, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    _, out, _ = arbitrage("replay", *file, "--thread", "1", "--speed", "1000")
    assert "\x1b[36mdraft" in out
    assert "\x1b[35mtarget" in out
