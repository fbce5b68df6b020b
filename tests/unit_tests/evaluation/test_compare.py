"""Comparing two runs: regressions are reported, noise of the machine is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage.cli import main
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation import compare
from langgraph_arbitrage.evaluation.points import Point
from langgraph_arbitrage.evaluation.results import save_results

Make = Callable[..., Any]


def test_a_run_compared_with_itself_is_the_same(made: Make) -> None:
    comparison = compare(made()[0], made()[0])
    assert comparison.common == 60
    assert comparison.notes == ()
    assert {c.accuracy_verdict for c in comparison.changes} == {"same"}
    assert {c.seconds_verdict for c in comparison.changes} == {"same"}


def test_a_lower_accuracy_is_reported_as_worse_at_that_point_only(made: Make) -> None:
    comparison = compare(made()[0], made(solved={"router@0.6": 0.4})[0])
    assert [c.after for c in comparison.worse] == ["router 0.6"]
    assert comparison.worse[0].accuracy.high is not None
    assert comparison.worse[0].accuracy.high < 0
    back = compare(made(solved={"router@0.6": 0.4})[0], made()[0])
    assert [c.after for c in back.changes if c.accuracy_verdict == "better"] == ["router 0.6"]


@pytest.mark.parametrize(("pace", "verdict"), [(1.2, "worse"), (1.03, "same"), (0.7, "better")])
def test_seconds_are_worse_beyond_the_slack(made: Make, pace: float, verdict: str) -> None:
    comparison = compare(made()[0], made(pace=pace)[0])
    assert {c.seconds_verdict for c in comparison.changes} == {verdict}


def test_seconds_of_different_machines_are_not_comparable(made: Make) -> None:
    before, after = made()[0], made(pace=3)[0]
    after["machine"] = after["machine"] | {"cores": 4096}
    comparison = compare(before, after)
    assert {c.seconds_verdict for c in comparison.changes} == {"unknown"}
    assert "4096" in comparison.notes[0]


def test_runs_without_common_questions_get_unpaired_intervals_and_a_note(made: Make) -> None:
    comparison = compare(made()[0], made(prefix="other")[0])
    assert comparison.common == 0
    assert "no common questions" in comparison.notes[0]
    same = compare(made()[0], made()[0]).changes[0].accuracy
    apart = comparison.changes[0].accuracy
    assert same.plain == [0, 0, 0]
    assert None not in apart.plain
    assert apart.low < apart.high  # type: ignore[operator]


def test_only_common_questions_are_compared(made: Make) -> None:
    comparison = compare(made(80)[0], made(60)[0])
    assert comparison.common == 60
    assert "compared on the 60 common questions (80 before, 60 after)" in comparison.notes


def test_points_with_different_thresholds_are_paired_by_default_and_escalation_rate(
    made: Make,
) -> None:
    one = [Point("router", 0.2), Point("router", 0.6, default=True), Point("target")]
    other = [Point("router", 0.2), Point("router", 0.7, default=True), Point("draft")]
    comparison = compare(made(points=one)[0], made(points=other)[0])
    assert [(c.before, c.after) for c in comparison.changes] == [
        ("router 0.2", "router 0.2"),
        ("router 0.6", "router 0.7"),
    ]
    assert (comparison.only_before, comparison.only_after) == (("target alone",), ("draft alone",))


def test_runs_without_a_common_policy_are_refused(made: Make) -> None:
    one, other = made(points=[Point("draft")])[0], made(points=[Point("target")])[0]
    with pytest.raises(DataError, match="the first has draft, the second target"):
        compare(one, other)


def test_the_command_reports_regressions_and_fails_if_strict(
    made: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    paths = []
    for name, solved in (("a", {}), ("b", {"rsd@0.5": 0.2})):
        (folder := tmp_path / name).mkdir()
        paths.append(str(save_results(made(solved=solved)[0], folder)))
    assert main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    assert "1 of 6 points are worse" in out
    assert [line.split()[0] for line in out.splitlines() if "▼" in line and "%" in line] == ["RSD"]
    assert main(["compare", *paths, "--strict", "--json"]) == 1
    comparison = json.loads(capsys.readouterr().out)
    assert [c["accuracy verdict"] for c in comparison["changes"]].count("worse") == 1
    assert main(["compare", *reversed(paths), "--strict"]) == 0
    capsys.readouterr()
    assert main(["compare", paths[0], str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
