"""The examples run unchanged."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


NAMES = """agent batch batch_graph best_of_n callbacks cascade chat_loop chat_model extraction graph
pipeline plan_solve_verify resume""".split()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_and_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_training_example_creates_a_calibrated_router(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train_router.py", "10", "3", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "train_router.py"), run_name="__main__")
    assert "rate:0.2: threshold" in capsys.readouterr().out
    assert (tmp_path / "router" / "calibration.json").is_file()
