"""`arbitrage ask --thread` and `arbitrage replay`: runs stored in a file."""

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
    """Options that name two models which write words and do not end."""
    found = pair(endless=True, words=True)
    return ["--draft", found["draft"], "--target", found["target"]]


@pytest.fixture
def file(tmp_path):
    return ["--checkpoint", str(tmp_path / "c.sqlite")]


def texts(out):
    """Writer and text of each step that is shown."""
    line = re.compile(r"(draft|target|human) +(?:\d\.\d\d)? +\d+\.\d\d s  (.*)")
    found = [line.match(x) for x in out.splitlines()]
    return [m.groups() for m in found if m]


@pytest.fixture
def asked(arbitrage, models, file):
    """The output of a run that is stored on thread 1."""
    status, out, _ = arbitrage("ask", QUESTION, *models, *STEPS, *file, "--thread", "1")
    assert status == 0
    return out


def test_a_stored_run_is_shown_again_without_any_model(arbitrage, file, asked, loads):
    status, out, _ = arbitrage("replay", *file, "--thread", "1")
    assert status == 0
    assert out.startswith(QUESTION)
    assert texts(out) == texts(asked)
    assert len(texts(out)) == 6
    assert out.rstrip().endswith("stopped by --max-steps")
    assert loads == []


def test_a_finished_thread_says_so_and_shows_its_answer(arbitrage, models, file, asked, loads):
    status, out, _ = arbitrage("ask", *models, *file, "--thread", "1")
    assert status == 0
    assert texts(out) == texts(asked)
    assert "thread 1 was finished before" in out
    assert loads == []


def test_a_further_question_continues_the_conversation(arbitrage, file, asked):
    """The thread's own models answer where none are named."""
    status, _, _ = arbitrage("ask", "How many?", *STEPS, *file, "--thread", "1")
    assert status == 0
    status, out, _ = arbitrage("replay", *file, "--thread", "1")
    assert out.startswith("How many?")


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_step(arbitrage, models, file, asked):
    """Killed by SIGKILL as soon as two steps are shown, by a process of its own."""
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
    assert texts(out)[:6] == texts(asked)
    assert "was finished before" not in out


def test_a_running_thread_is_followed(arbitrage, models, file):
    from langgraph_arbitrage.cli import main

    long = [*models, *STEPS[:-1], "30", *file, "--thread", "1"]
    running = threading.Thread(target=main, args=[["ask", QUESTION, *long, "--json"]])
    running.start()
    while arbitrage("replay", *file, "--thread", "1")[0]:
        time.sleep(0.05)  # until it is there
    status, out, _ = arbitrage("replay", *file, "--thread", "1", "--follow")
    running.join()
    assert status == 0
    assert len(texts(out)) == 30
    assert "stopped by --max-steps" in out


def test_a_fork_goes_on_from_a_step_on_a_thread_of_its_own(arbitrage, file, asked):
    how = ["--fork", "2", *STEPS[:2], "--max-steps", "8", "--policy", "target"]
    status, out, _ = arbitrage("replay", *file, "--thread", "1", *how)
    assert status == 0
    assert texts(out)[:2] == texts(asked)[:2]
    assert [w for w, _ in texts(out)[2:]] == ["target"] * 6
    assert "thread 1-fork-2 from step 2 of 1 · tokens fed from there: " in out
    assert texts(arbitrage("replay", *file, "--thread", "1")[1]) == texts(asked)
    assert texts(arbitrage("replay", *file, "--thread", "1-fork-2")[1]) == texts(out)


def test_a_fork_may_begin_with_an_edited_step(arbitrage, file, asked):
    how = ["--fork", "1", "--text", "seven", "--into", "other", *STEPS]
    status, out, _ = arbitrage("replay", *file, "--thread", "1", *how)
    assert status == 0
    assert texts(out)[0] == texts(asked)[0]
    assert texts(out)[1] == ("human", "seven")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["replay", "--thread", "nobody"], "thread 'nobody' does not exist"),
        (["replay", "--thread", "1", "--fork", "6"], "no step 6: it has steps 0 to 5"),
        (["replay", "--thread", "1", "--fork", "1", "--into", "1"], "exists already"),
        (["replay", "--thread", "1", "--text", "seven"], "go with --fork"),
        (["replay", "--thread", "1", "--speed", "-1"], "--speed must be 0 or more"),
        (["ask", "How many?"], "--thread ID and --checkpoint FILE go together"),
        (["ask", "a", "b", "--thread", "1"], "--thread takes one question"),
    ],
)
def test_what_cannot_be_done_is_told(arbitrage, file, asked, argv, told):
    status, _, err = arbitrage(*argv, *file)
    assert status == 2
    assert told in err


def test_a_file_that_holds_no_threads_is_told(arbitrage, tmp_path):
    other = tmp_path / "notes.txt"
    argv = ("replay", "--thread", "1", "--checkpoint", str(other))
    assert "is no file" in arbitrage(*argv)[2]
    assert not other.exists()
    other.write_text("no database " * 100)
    status, _, err = arbitrage(*argv)
    assert status == 2
    assert "cannot be used as a checkpoint file" in err


def test_a_missing_extra_is_named_with_the_command_that_installs_it(arbitrage, file, monkeypatch):
    monkeypatch.setattr("langgraph_arbitrage.cli.thread.find_spec", lambda name: None)
    status, _, err = arbitrage("ask", "How many?", *file, "--thread", "1")
    assert status == 2
    assert "pip install 'langgraph-arbitrage[sqlite]'" in err


def test_a_terminal_shows_writers_in_colour(arbitrage, file, asked, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    _, out, _ = arbitrage("replay", *file, "--thread", "1", "--speed", "1000")
    assert "\x1b[36mdraft" in out
    assert "\x1b[35mtarget" in out
