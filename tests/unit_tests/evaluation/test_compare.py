"""Two runs side by side: regressions are seen, moods of a machine are not."""

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


def test_a_run_beside_itself_is_nowhere_worse(made: Make) -> None:
    found = compare(made()[0], made()[0])
    assert found.common == 60
    assert found.notes == ()
    assert {c.accuracy_verdict for c in found.changes} == {"same"}
    assert {c.seconds_verdict for c in found.changes} == {"same"}


def test_a_lower_accuracy_is_a_regression_of_that_point_alone(made: Make) -> None:
    found = compare(made()[0], made(solved={"router@0.6": 0.4})[0])
    assert [c.after for c in found.worse] == ["router 0.6"]
    assert found.worse[0].accuracy.high is not None
    assert found.worse[0].accuracy.high < 0
    back = compare(made(solved={"router@0.6": 0.4})[0], made()[0])
    assert [c.after for c in back.changes if c.accuracy_verdict == "better"] == ["router 0.6"]


@pytest.mark.parametrize(("pace", "verdict"), [(1.2, "worse"), (1.03, "same"), (0.7, "better")])
def test_seconds_are_worse_beyond_the_slack(made: Make, pace: float, verdict: str) -> None:
    found = compare(made()[0], made(pace=pace)[0])
    assert {c.seconds_verdict for c in found.changes} == {verdict}


def test_seconds_of_another_machine_are_not_judged(made: Make) -> None:
    before, after = made()[0], made(pace=3)[0]
    after["machine"] = after["machine"] | {"cores": 4096}
    found = compare(before, after)
    assert {c.seconds_verdict for c in found.changes} == {"unknown"}
    assert "4096" in found.notes[0]


def test_other_questions_are_compared_unpaired_and_it_is_said(made: Make) -> None:
    found = compare(made()[0], made(prefix="other")[0])
    assert found.common == 0
    assert "no common questions" in found.notes[0]
    same = compare(made()[0], made()[0]).changes[0].accuracy
    apart = found.changes[0].accuracy
    assert same.plain == [0, 0, 0]
    assert None not in apart.plain
    assert apart.low < apart.high  # type: ignore[operator]


def test_only_common_questions_count(made: Make) -> None:
    found = compare(made(80)[0], made(60)[0])
    assert found.common == 60
    assert "compared on the 60 common questions (80 before, 60 after)" in found.notes


def test_thresholds_that_differ_are_matched_by_default_and_by_escalation(made: Make) -> None:
    one = [Point("router", 0.2), Point("router", 0.6, default=True), Point("target")]
    other = [Point("router", 0.2), Point("router", 0.7, default=True), Point("draft")]
    found = compare(made(points=one)[0], made(points=other)[0])
    assert [(c.before, c.after) for c in found.changes] == [
        ("router 0.2", "router 0.2"),
        ("router 0.6", "router 0.7"),
    ]
    assert (found.only_before, found.only_after) == (("target alone",), ("draft alone",))


def test_runs_without_a_common_policy_are_refused(made: Make) -> None:
    one, other = made(points=[Point("draft")])[0], made(points=[Point("target")])[0]
    with pytest.raises(DataError, match="the first has draft, the second target"):
        compare(one, other)


def test_the_command_tells_and_is_strict_if_asked(
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
    found = json.loads(capsys.readouterr().out)
    assert [c["accuracy verdict"] for c in found["changes"]].count("worse") == 1
    assert main(["compare", *reversed(paths), "--strict"]) == 0
    capsys.readouterr()
    assert main(["compare", paths[0], str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
