"""The GPU benchmark, run on a CPU with tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WITHOUT_LANGCHAIN = """
import runpy, sys
for name in ("langgraph", "langchain_core", "langchain"):
    sys.modules[name] = None  # importing it fails as if it were not installed
sys.path.append(sys.argv[1])
from langgraph_arbitrage.engine.cuda_graphs import CAPTURES
from tape import taped
CAPTURES["cpu"] = lambda device: taped  # replaces CUDA graphs, as in the tests of the engine
sys.argv = sys.argv[2:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_all_measurements_succeed_without_langchain(tmp_path: Path) -> None:
    argv = ["--pairs", "tiny", "--device", "cpu", "--dtype", "float32", "--batches", "1", "2"]
    command = [sys.executable, "-c", WITHOUT_LANGCHAIN, str(Path(__file__).parent)]
    command += [str(BENCHMARKS / "gpu.py"), *argv]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("gpu-*.json")
    results = json.loads(file.read_text())["pairs"]["tiny"]
    assert results["engine"] == dict.fromkeys(("draft", "target", "router"), "slot")
    assert not [v for v in results.values() if isinstance(v, str)]  # "failed: …" or "skipped: …"
    comparison = results["target, CUDA graphs and eager, batch 1"]
    assert comparison["captured graphs"] > 0
    assert comparison["disabled because"] == ""
    assert comparison["fraction of equal tokens"] == 1
    assert comparison["maximum difference of log-probabilities"] < 1e-4
    assert results["loop, batch 2, 30% escalated"]["speed-up"] > 0
    assert set(results["escalated step, ms, by accepted draft tokens"]) == {
        "no verification",
        "none accepted",
        "half accepted",
        "all accepted",
    }
    assert (tmp_path / file.with_suffix(".md").name).is_file()


def test_measurements_beyond_the_time_limit_are_skipped_and_listed(tmp_path: Path) -> None:
    argv = ["--pairs", "tiny", "--device", "cpu", "--dtype", "float32", "--minutes", "0"]
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *argv, "--output", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    (file,) = tmp_path.glob("gpu-*.json")
    pair = json.loads(file.read_text())["pairs"]["tiny"]
    assert pair == {"bytes of the weights": "skipped: no time left"}


def test_a_missing_gpu_is_reported_with_an_alternative() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cuda:99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--pairs tiny --device cpu" in done.stderr
