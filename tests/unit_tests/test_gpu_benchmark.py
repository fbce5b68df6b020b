"""The programs for a GPU run where there is none, on tiny shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WITHOUT = """
import runpy, sys
for name in ("langgraph", "langchain_core", "langchain"):
    sys.modules[name] = None  # as if it were not installed
sys.path.append(sys.argv[1])
from langgraph_arbitrage.engine.cuda_graphs import CAPTURES
from tape import taped
CAPTURES["cpu"] = lambda device: taped  # what stands for graphs in the tests of the engine
sys.argv = sys.argv[2:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_gpu_benchmark_needs_the_engine_alone_and_measures_all_it_names(tmp_path: Path) -> None:
    argv = ["--pairs", "tiny", "--device", "cpu", "--dtype", "float32", "--batches", "1", "2"]
    command = [sys.executable, "-c", WITHOUT, str(Path(__file__).parent)]
    command += [str(BENCHMARKS / "gpu.py"), *argv]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("gpu-*.json")
    found = json.loads(file.read_text())["pairs"]["tiny"]
    assert found["engine"] == dict.fromkeys(("draft", "target", "router"), "slot")
    assert not [v for v in found.values() if isinstance(v, str)]  # "failed: …", "no time left"
    both = found["target by graphs and eager, batch 1"]
    assert both["captured"] > 0
    assert both["why not"] == ""
    assert both["same tokens"] == 1
    assert both["log-probability apart, most"] < 1e-4
    assert found["the loop, batch 2, 30% escalated"]["speed-up"] > 0
    kept = found["a step of the target, ms, by what is kept"]
    assert set(kept) == {"plain", "none kept", "half kept", "all kept"}
    assert (tmp_path / file.with_suffix(".md").name).is_file()


def test_what_there_is_no_time_for_is_left_out_and_named(tmp_path: Path) -> None:
    argv = ["--pairs", "tiny", "--device", "cpu", "--dtype", "float32", "--minutes", "0"]
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *argv, "--output", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    (file,) = tmp_path.glob("gpu-*.json")
    pair = json.loads(file.read_text())["pairs"]["tiny"]
    assert pair == {"bytes of the weights": "no time left"}


def test_without_a_gpu_it_says_how_to_try_it() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cuda:99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "try --pairs tiny --device cpu" in done.stderr
