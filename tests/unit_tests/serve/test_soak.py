"""Sixty-four streaming clients for a while, some of which hang up: every request ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[3] / "benchmarks" / "serving.py"


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_every_request_of_many_clients_ends_and_none_is_left(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    out = tmp_path / "serving.json"
    command = [sys.executable, str(SOAK), "--clients", "64", "--seconds", "20", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["ended"]["stop"] > 64
    assert figures["ended"]["left"] > 0
    assert figures["right"] > 0.5
