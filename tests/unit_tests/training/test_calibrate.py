"""`arbitrage calibrate`: the table matches runs of the loop at each threshold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from collected import PAIR, learnable, row, written
from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.data.answer_extraction import final_answer
from langgraph_arbitrage.errors import DataError, SettingsError
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.policies import LearnedRouter
from langgraph_arbitrage.policies.calibration import Calibration, OperatingPoint
from langgraph_arbitrage.scorers import load_scorer
from langgraph_arbitrage.training import (
    CalibrateConfig,
    Calibrator,
    Question,
    calibrate_rows,
    loss_bound,
    question_id,
)
from langgraph_arbitrage.training.calibrate import thresholds
from langgraph_arbitrage.training.prefix import Prefix
from tiny import QUESTIONS, make

CONFIG = CalibrateConfig()


@pytest.fixture(scope="module")
def router() -> str:
    """An untrained token classifier: these tests work with any scores."""
    return make("llama", 5, head="token-classification")


@pytest.fixture(scope="module")
def answered() -> list[Question]:
    """Questions that only the target or only the draft answers correctly, in alternation."""
    questions = []
    for question, policy in zip(QUESTIONS, [AlwaysTarget(), AlwaysDraft()] * 4, strict=True):
        llm = ChatArbitrage(**PAIR, router=policy)
        questions.append(
            Question(question, f"\\boxed{{{final_answer(llm.invoke(question).text)}}}")
        )
    return questions


def calibrate(
    models: Models, router: str, questions: list[Question], **options: Any
) -> Calibration:
    calibrator = Calibrator(models, LearnedRouter(router), CONFIG, **options)
    return asyncio.run(calibrator.calibrate(questions))


def test_the_table_matches_the_chat_model_at_each_threshold(
    models: Models, router: str, prm: str, answered: list[Question]
) -> None:
    calibration = calibrate(models, router, answered, prm=load_scorer(prm))
    table = calibration.table
    assert [t.threshold for t in table] == sorted(t.threshold for t in table)
    assert (table[0].escalation_rate, table[-1].escalation_rate) == (1, 0)
    assert {t.accuracy for t in table} > {0.5}
    llm = ChatArbitrage(**PAIR, router=AlwaysTarget())
    questions = answered[2:]  # the first ones set the thresholds
    target_right = [q.solved_by(llm.invoke(q.text).text) for q in questions]
    for line in table[:: len(table) // 2]:
        policy = LearnedRouter(router, line.threshold)
        llm = ChatArbitrage(**PAIR, router=policy)
        messages = llm.batch([q.text for q in questions])
        steps = [m.response_metadata["arbitrage"]["steps"] for m in messages]
        right = [q.solved_by(m.text) for q, m in zip(questions, messages, strict=True)]
        escalated = [s["writer"] == "target" for answer in steps for s in answer]
        assert line.escalation_rate == pytest.approx(fmean(escalated))
        assert line.accuracy == pytest.approx(fmean(right))
        losses = [float(a) - float(r) for a, r in zip(target_right, right, strict=True)]
        assert line.loss == pytest.approx(fmean(losses))
        assert line.loss_bound == pytest.approx(loss_bound(losses), abs=1e-6)
        llm.close()
    assert calibration.questions == len(questions)
    assert (calibration.loss_of, calibration.source) == ("accuracy", "questions")


def test_each_step_is_generated_once(
    models: Models, router: str, answered: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    generate = Prefix.generate

    async def recording(self: Prefix, role: Any, **options: Any) -> Any:
        calls.append((self.question, self.texts, self.tags, role))
        return await generate(self, role, **options)

    monkeypatch.setattr(Prefix, "generate", recording)
    calibration = calibrate(models, router, answered)
    assert len(calibration.table) > 8
    assert len(calls) == len(set(calls))


def test_every_escalation_to_an_equal_step_is_wasted(router: str, prm: str) -> None:
    models = Models(ArbitrageSettings(**{**PAIR, "target": PAIR["draft"]}))
    questions = [Question(q) for q in QUESTIONS[:4]]
    table = calibrate(models, router, questions, prm=load_scorer(prm)).table
    models.close()
    assert {line.wasted for line in table if line.escalation_rate} == {1.0}
    assert max(abs(line.loss) for line in table) < 1e-4


def test_without_right_answers_losses_are_in_step_scores(
    models: Models, router: str, prm: str
) -> None:
    calibrator = Calibrator(models, LearnedRouter(router), CONFIG, load_scorer(prm))
    calibration = asyncio.run(calibrator.calibrate([Question(q) for q in QUESTIONS]))
    assert calibration.loss_of == "score"
    assert calibration.table[0].loss == pytest.approx(0, abs=1e-4)  # the target writes all steps
    assert all(t.accuracy is None and 0 < t.score < 1 for t in calibration.table)  # type: ignore[operator]
    with pytest.raises(DataError, match="--answer-column, or a PRM with --prm"):
        asyncio.run(
            Calibrator(models, LearnedRouter(router), CONFIG).calibrate([Question("How many?")])
        )


def test_rows_yield_the_expected_rates_wasted_escalations_and_losses() -> None:
    # Ten questions of two rows: escalating the first one gains 0.5, the second one nothing.
    rows = [
        row(f"{i}?", history, "z", s_d, 0.7)
        for i in range(10)
        for history, s_d in (([], 0.2), (["z"], 0.7))
    ]
    scores = [0.9 if not r["history"] else 0.4 for r in rows]
    calibration = calibrate_rows(rows, scores, CONFIG)
    table = calibration.table
    lines = [(t.threshold, t.escalation_rate, t.wasted, t.score, t.loss) for t in table]
    assert lines[0] == (0.0, 1.0, 0.5, pytest.approx(0.7), 0.0)
    assert lines[-1] == (1.0, 0.0, None, pytest.approx(0.45), pytest.approx(0.25))
    middle = next(line for line in lines if 0.4 <= line[0] < 0.9)
    assert middle[1:] == (0.5, 0.0, pytest.approx(0.7), 0.0)
    assert (calibration.questions, calibration.steps) == (8, 16)
    assert (calibration.draft, calibration.target) == ("a", "b")
    with pytest.raises(DataError, match="2 questions are too few"):
        calibrate_rows(rows[:4], scores[:4], CONFIG)
    with pytest.raises(DataError, match="several pairs"):
        calibrate_rows([*rows[:-1], {**rows[-1], "target": "c"}], scores, CONFIG)


def test_thresholds_lie_between_scores() -> None:
    grid = thresholds([0.1, 0.2, 0.3, 0.4])
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert grid[1:-1] == pytest.approx([0.15, 0.25, 0.35])
    assert thresholds([0.5]) == [0.0, 1.0]


def line(threshold: float, rate: float, bound: float) -> OperatingPoint:
    return OperatingPoint(threshold, rate, None, None, None, 0.0, bound)


TABLE = Calibration(
    (line(0, 1, 0.01), line(0.2, 0.5, 0.02), line(0.4, 0.3, 0.06), line(0.6, 0.1, 0.01)),
    *("accuracy", 0.95, 500, 2000, "questions", "a", "b"),  # type: ignore[arg-type]
)


def test_a_rate_is_interpolated_between_the_lines_of_the_table() -> None:
    assert TABLE.threshold("rate:0.3", "r") == pytest.approx(0.4)
    assert TABLE.threshold("rate:0.2", "r") == pytest.approx(0.5)
    assert (TABLE.threshold("rate:1", "r"), TABLE.threshold("rate:0", "r")) == (0, 0.6)


def test_a_loss_is_tested_from_the_lowest_threshold_to_the_first_that_fails() -> None:
    assert TABLE.threshold("loss:0.02", "r") == 0.2  # 0.6 would pass, but 0.4 before it fails
    assert TABLE.threshold("loss:0.1", "r") == 0.6
    with pytest.raises(SettingsError, match=r"at most 0\.001 .*bounds the loss by 0\.01"):
        TABLE.threshold("loss:0.001", "r")


def copy_router(router: str, folder: Path, rows: list[Any]) -> Path:
    """Copy the router and record the questions of these rows as its training questions."""
    folder.mkdir()
    for file in Path(router).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    seen = [question_id(r["question"]) for r in rows]
    (folder / "training.json").write_text(json.dumps({"questions": seen}))
    return folder


def test_the_command_saves_the_table_with_the_router_and_excludes_training_questions(
    arbitrage: Callable[..., Any], router: str, options: list[str], tmp_path: Path
) -> None:
    rows = learnable(20)
    folder = copy_router(router, tmp_path / "router", rows[:8])
    path = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(SettingsError, match="Run `arbitrage calibrate"):
        LearnedRouter(str(folder), "rate:0.3")
    status, out, _ = arbitrage("calibrate", folder, "--rows", path, "--find", "rate:0.3")
    assert status == 0
    assert "Excluded because the router was trained on their questions: 8 rows" in out
    assert "13 questions, 26 steps, measured on rows" in out
    threshold = LearnedRouter(str(folder), "rate:0.3").threshold
    assert f"rate:0.3: threshold {threshold:.4g}" in out
    assert Calibration.load(str(folder)).questions == 13


def test_the_command_calibrates_on_questions_with_answers(
    arbitrage: Callable[..., Any], router: str, options: list[str], tmp_path: Path
) -> None:
    folder = copy_router(router, tmp_path / "router", [])
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"q": q, "a": "7"}) + "\n" for q in QUESTIONS))
    columns = ["--column", "q", "--answer-column", "a"]
    status, out, _ = arbitrage("calibrate", folder, path, *columns, *options, "--find", "loss:1")
    assert status == 0
    assert "loss: accuracy of the target alone minus that of the router" in out
    assert "loss:1: threshold 1" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "pass either QUESTIONS to run or collected --rows"),
        (["embedded:3:1", "--rows", "r.jsonl"], "pass either QUESTIONS to run or collected --rows"),
        (["embedded:3:1", "--find", "half"], "invalid threshold 'half': set a number, rate:R"),
        (["embedded:3:1", "--confidence", "1"], "--confidence 1.0: Input should be less than 1"),
        (["no-such.jsonl"], "no-such.jsonl does not exist"),
        (["--rows", "KNOWN"], "trained on all of these 2 questions"),
    ],
)
def test_bad_input_is_reported(
    argv: list[str], message: str, arbitrage: Callable[..., Any], router: str, tmp_path: Path
) -> None:
    rows = learnable(2)
    folder = copy_router(router, tmp_path / "router", rows)
    known = str(written(tmp_path / "rows.jsonl", rows))
    argv = [known if a == "KNOWN" else a for a in argv]
    status, out, err = arbitrage("calibrate", folder, *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert not (folder / "calibration.json").exists()
    _, _, err = arbitrage("calibrate", "someone/router", *argv)
    assert "`hf download someone/router --local-dir FOLDER`" in err or "pass either" in err
