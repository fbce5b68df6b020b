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
sys.argv = sys.argv[1:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_gpu_benchmark_needs_the_engine_alone_and_measures_all_it_names(tmp_path: Path) -> None:
    argv = ["--pairs", "tiny", "--device", "cpu", "--dtype", "float32", "--batches", "1", "2"]
    command = [sys.executable, "-c", WITHOUT, str(BENCHMARKS / "gpu.py"), *argv]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("gpu-*.json")
    found = json.loads(file.read_text())["pairs"]["tiny"]
    assert found["engine"] == dict.fromkeys(("draft", "target", "router"), "slot")
    assert not [v for v in found.values() if isinstance(v, str)]  # "failed: …", "no time left"
    kept = found["a step of the target, ms, by what is kept"]
    assert kept["all kept"] < kept["half kept"] < kept["plain"]
    assert (tmp_path / file.with_suffix(".md").name).is_file()


def test_without_a_gpu_it_says_how_to_try_it() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cuda:99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "try --pairs tiny --device cpu" in done.stderr
