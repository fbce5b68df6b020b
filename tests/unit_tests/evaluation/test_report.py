"""Plots, tables, the results file and the report."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation import load_results
from langgraph_arbitrage.evaluation.dataset import LeftOut
from langgraph_arbitrage.evaluation.plots import PLOTS, save_plots
from langgraph_arbitrage.evaluation.report import save_report
from langgraph_arbitrage.evaluation.results import save_results
from langgraph_arbitrage.evaluation.tables import headlines, save_points

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """What a browser would load, and the tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [
            str(value)
            for name, value in attrs
            if name in ("src", "href", "xlink:href", "action", "data") and value
        ]
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += data + " "


def page(made: Any, folder: Path, traces: int = 50) -> str:
    return save_report(*made, folder, traces).read_text(encoding="utf-8")


def packed(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_report_is_complete_and_self_contained(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    text = page(made(), tmp_path)
    found = Page(text)
    assert found.open == []
    assert all(link.startswith("#") for link in found.loads)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_texts_of_questions_and_answers_are_escaped(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    results, answers = made(3)
    evil = "</script><script>alert(1)</script><b>"
    results["questions"][0]["question"] = evil
    answers[0]["steps"][0]["text"] = evil
    results["about"]["dataset"] = evil
    text = page((results, answers), tmp_path)
    assert "<script>alert" not in text
    assert packed(text)["questions"][0]["q"] == evil
    assert Page(text).open == []


def test_the_answer_viewer_contains_every_step(made: Callable[..., Any], tmp_path: Path) -> None:
    results, answers = made(4)
    data = packed(page((results, answers), tmp_path))
    keys = [p["key"] for p in data["points"]]
    assert keys == [p["key"] for p in results["points"]]
    question = data["questions"][2]
    for answer in answers:
        if answer["question"] != results["questions"][2]["id"]:
            continue
        right, seconds, finish, steps = question["answers"][keys.index(answer["point"])]
        assert (bool(right), seconds, finish) == (answer["right"], answer["seconds"], "stop")
        for shown, step in zip(steps, answer["steps"], strict=True):
            writer, text, score, s_d, s_t, draft, tokens, ms = shown
            assert ["draft", "target"][writer] == step["writer"]
            assert question["texts"][text] == step["text"].strip()
            assert (score, s_d, s_t, tokens) == (0.5, step["s_d"], step["s_t"], 10)
            assert (None if draft is None else question["texts"][draft]) == step["draft"]
            assert ms == 100


def test_a_limited_viewer_contains_the_questions_on_which_points_differ(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    results, answers = made(60)
    text = page((results, answers), tmp_path, traces=10)
    right = [p["each"]["right"] for p in results["points"]]
    columns = enumerate(zip(*right, strict=True))
    differ = [i for i, column in columns if 0 < sum(column) < len(right)]
    shown = [q["n"] - 1 for q in packed(text)["questions"]]
    assert len(shown) == 10
    assert set(shown) <= set(differ)
    assert "Answers to the 10 of 60 questions" in Page(text).words


def test_excluded_failed_and_late_answers_are_listed(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    results, answers = made(3, left_out=[LeftOut("Which?", "$t(0,4]$", "it cannot be read")])
    results["points"][0]["errors"] = ["the answer took too long"]
    results["points"][1]["graded late"] = 2
    words = Page(page((results, answers), tmp_path)).words
    assert "1 questions were left out" in words
    assert "$t(0,4]$" in words
    assert "the answer took too long" in words
    assert "Grading of 2 answers exceeded the time limit" in words


def test_plots_contain_every_policy_and_are_reproducible(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    results, _ = made()
    paths = save_plots(results, tmp_path)
    assert [p.name for p in paths] == [f"{n}.{e}" for n in PLOTS for e in ("png", "svg")]
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
            continue
        words = [t.text for t in ElementTree.parse(path).iter(f"{SVG}text")]
        if path.stem == "score-distributions":
            assert {"router", "RSD"} <= set(words)
            continue
        assert {"router", "RSD", "draft alone", "target alone"} <= set(words)
        assert ("token speculation" in words) == ("latency" in path.name)  # it accepts no steps
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in save_plots(results, tmp_path)] == before


def test_the_csv_has_one_row_per_point(made: Callable[..., Any], tmp_path: Path) -> None:
    results, _ = made()
    with save_points(results, tmp_path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == [p["kind"] for p in results["points"]]
    assert float(rows[0]["accuracy"]) == pytest.approx(results["points"][0]["accuracy"][0], 1e-5)
    assert rows[-1]["escalation_by_steps"] == ""  # token speculation has none


def test_the_summary_warns_of_answers_that_a_limit_cut_off(made: Callable[..., Any]) -> None:
    results, _ = made()
    assert results["points"][0]["at limit"] == 0
    results["points"][0]["at limit"] = 0.06
    warning = headlines(results)[0]
    assert warning.startswith("6.0 % of the answers of router 0.2 reach a limit")
    assert "--max-tokens" in warning
    assert len(headlines(results)) == 2


def test_headlines_report_speed_ups_at_equal_accuracy(made: Callable[..., Any]) -> None:
    results, _ = made(200, solved={"router@0.2": 0.85, "rsd@0.5": 0.3})
    by_kind = {row["kind"]: row["at"] for row in results["speed-up at equal accuracy"]}
    value, low, high = by_kind["router"]["0"]
    pace = {p["key"]: p["seconds"]["mean"][0] for p in results["points"]}
    assert low <= value <= high
    assert value == pytest.approx(pace["target"] / pace["router@0.2"], rel=1e-3)
    assert by_kind["router"]["0.05"][0] > value  # a lower accuracy is reached faster
    assert by_kind["rsd"]["0"] == [None, None, None]
    assert "router 1." in headlines(results)[0]
    assert "RSD" not in headlines(results)[0]


def test_saved_results_load_unchanged(made: Callable[..., Any], tmp_path: Path) -> None:
    results, _ = made(5)
    save_results(results, tmp_path)
    assert load_results(tmp_path) == load_results(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"format": "langgraph_arbitrage evaluation", "version": 0}',
            "has format version 0, .* reads version 1",
        ),
        ('{"parts": {}}', "is not a results file"),
        ("no json", "is not a results file"),
    ],
)
def test_an_invalid_results_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_results(path)
