"""Runs that kill themselves with SIGKILL and are resumed end in the unbroken run's answer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny import pair

PROGRAM = Path(__file__).parents[1] / "killed.py"


def killed(checkpointer: str, *, kills: int, tokens: int, temperature: float) -> dict[str, Any]:
    """What the program told: kills, answer and steps, and those of a whole run."""
    options = {"--kills": kills, "--tokens": tokens, "--temperature": temperature}
    models = pair(endless=True, words=True)
    command = [sys.executable, str(PROGRAM), checkpointer, *models.values()]
    done = subprocess.run(
        [*command, *(str(part) for option in options.items() for part in option)],
        env=os.environ | {"LANGGRAPH_STRICT_MSGPACK": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "msgpack" not in done.stderr.lower()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check(told: dict[str, Any], *, kills: int, steps: int) -> None:
    whole = told["whole"]
    assert told["kills"] == kills
    assert len(whole["steps"]) >= steps
    assert {writer for writer, _ in whole["steps"]} == {"draft", "target"}
    assert told["answer"] == whole["answer"]
    assert told["steps"] == whole["steps"]
    assert told["begun"] > 0  # the last process found what those before it had stored


def test_two_kills_on_sqlite(tmp_path: Path) -> None:
    told = killed(str(tmp_path / "c.sqlite"), kills=2, tokens=60, temperature=0.0)
    check(told, kills=2, steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "seeded"])
def test_twenty_kills_of_one_answer_on_sqlite(temperature: float, tmp_path: Path) -> None:
    told = killed(str(tmp_path / "c.sqlite"), kills=20, tokens=500, temperature=temperature)
    check(told, kills=20, steps=40)
