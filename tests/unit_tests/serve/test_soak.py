"""64 streaming clients, some of which disconnect: every request ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[3] / "benchmarks" / "serving.py"


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_every_request_of_many_clients_ends(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    out = tmp_path / "serving.json"
    command = [sys.executable, str(SOAK), "--clients", "64", "--seconds", "20", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    statistics = json.loads(out.read_text())
    assert statistics["ended"]["stop"] > 64
    assert statistics["ended"]["left"] > 0
    assert statistics["right"] > 0.5
