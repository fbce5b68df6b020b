"""`arbitrage evaluate`: output files and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage.cli import main
from langgraph_arbitrage.evaluation import dataset, load_results
from langgraph_arbitrage.evaluation.plots import PLOTS
from tiny import pair


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"How much is {i} + 4?", "answer": str(i + 4)} for i in range(3)]
    rows.append({"question": "How?", "answer": "$t(0,4]$"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def command(questions: str, *more: str) -> tuple[str, ...]:
    models = [f"--{role}={path}" for role, path in pair().items()]
    limits = ("--max-tokens=24", "--separator=\\n", "--resamples=100", "--pilot=2", "--points=2")
    return ("evaluate", questions, *models, *limits, *more)


def test_all_files_are_written_and_a_second_run_reuses_the_answers(
    questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    argv = command(questions, "-o", str(out), "--policies=confidence,target", "--concurrency=2")
    assert main(argv) == 0
    output = capsys.readouterr()
    assert "Excluded: 1 questions" in output.err
    assert "$t(0,4]$" in output.err
    assert "3 questions of" in output.out
    names = {path.name for path in out.iterdir()}
    plots = {f"{name}.{suffix}" for name in PLOTS for suffix in ("png", "svg")}
    assert names == plots | {"answers.jsonl", "results.json", "points.csv", "report.html"}
    results = load_results(out)
    assert len(results["draft scores"]["confidence"]) > 1
    assert [p["kind"] for p in results["points"]].count("target") == 1
    assert len(results["left out"]) == 1
    answers = (out / "answers.jsonl").read_bytes()
    assert main(argv) == 0
    assert (out / "answers.jsonl").read_bytes() == answers
    assert "Resuming: " in capsys.readouterr().err
    assert load_results(out)["points"] == results["points"]


def test_references_can_be_checked_without_models(
    questions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", questions, "--check-references"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("3 of 4 references are graded as right against themselves\n")
    assert "the reference cannot be read: '$t(0,4]$'" in out


@pytest.mark.parametrize(
    ("argv", "suffix"),
    [
        ((), ""),
        (("--instruction=Be quick.",), "\n\nBe quick."),
        (tuple(f"--{role}={path}" for role, path in pair().items()), f"\n\n{dataset.INSTRUCTION}"),
    ],
)
def test_the_embedded_pair_gets_no_instruction_by_default(
    questions: str, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], suffix: str
) -> None:
    loaded: list[dataset.Dataset] = []
    load = dataset.load_dataset
    monkeypatch.setattr(
        dataset, "load_dataset", lambda *a, **kw: loaded.append(load(*a, **kw)) or loaded[0]
    )
    main(["evaluate", questions, "--check-references", *argv])
    assert loaded[0].tasks[0].prompt == f"How much is 0 + 4?{suffix}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "the output folder is missing. Add -o FOLDER"),
        (("-o", "x", "--column", "q"), "has no column 'q'; its columns are 'question', 'answer'"),
        (("-o", "x", "--policies", "best"), "Unknown policy 'best'. Available: router"),
        (("-o", "x", "--policies", "rsd"), "policy 'rsd' needs a checkpoint: --prm"),
        (("-o", "x", "--at", "draft"), "thresholds must have the form POLICY=X,Y"),
        (("-o", "x", "--points", "0"), "--points 0: Input should be greater than or equal to 1"),
        (("-o", "x", "--limit", "0"), "--limit must be at least 1, not 0"),
        (
            ("-o", "x", "--scored-by", "checker"),
            "--scored-by checker works for embedded problems only",
        ),
    ],
)
def test_bad_input_is_reported(
    questions: str,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command(questions, *argv)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
