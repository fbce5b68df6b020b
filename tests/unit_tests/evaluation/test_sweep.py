"""Sweeps on the embedded pair: records, resuming and invalid answers files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation import EvaluateConfig, Lineup, Sweep, load_dataset, results_of
from langgraph_arbitrage.evaluation.answers_file import ANSWERS
from langgraph_arbitrage.evaluation.sweep import Progress
from langgraph_arbitrage.scorers import load_scorer

AT = {"rsd": [0.95], "random": [0.5]}
KINDS = ["rsd", "random", "exact", "draft", "target", "assisted"]


def sweep(folder: Path, questions: str = "embedded:3:28", **config: Any) -> Sweep:
    dataset = load_dataset(questions)
    problems = {t.prompt: t.problem for t in dataset.tasks if t.problem}
    lineup = Lineup.of(ArbitrageSettings(), problems=problems)
    settings = EvaluateConfig(resamples=100, **config)
    return Sweep(dataset, lineup, settings, KINDS, AT, folder, load_scorer("embedded:prm"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sweep, list[dict[str, Any]]]]:
    """A sweep from its beginning to its end."""
    with sweep(tmp_path_factory.mktemp("whole")) as found:
        asyncio.run(found.run())
        yield found, found.answers()


def by(answers: list[dict[str, Any]], point: str) -> list[dict[str, Any]]:
    return sorted((a for a in answers if a["point"] == point), key=lambda a: a["question"])


def said(answer: dict[str, Any]) -> Any:
    """What of an answer does not depend on the clock."""
    steps = [{k: v for k, v in s.items() if k != "seconds"} for s in answer["steps"]]
    return {k: v for k, v in answer.items() if k != "seconds"} | {"steps": steps}


def test_every_question_is_answered_once_at_every_point(whole: Any) -> None:
    found, answers = whole
    assert [p.key for p in found.points] == [
        *("rsd@0.95", "random@0.5", "exact", "draft", "target", "assisted")
    ]
    assert len({(a["point"], a["question"]) for a in answers}) == len(answers) == 18


def test_steps_record_writer_replaced_draft_and_both_scores(whole: Any) -> None:
    _, answers = whole
    (rsd, other) = by(answers, "rsd@0.95"), by(answers, "target")
    steps = [s for a in rsd for s in a["steps"]]
    assert {s["writer"] for s in steps} == {"draft", "target"}
    for s in steps:
        assert s["s_d"] == pytest.approx(s["score"], abs=1e-4)  # RSD uses the same PRM
        assert (s["draft"] is None) == (s["writer"] == "draft") == (s["s_t"] is None)
        assert (s["writer"] == "target") == (s["score"] < 0.95)
    assert all(s["s_d"] is None and s["s_t"] is not None for a in other for s in a["steps"])


def test_token_speculation_equals_the_target_with_fewer_forwards(whole: Any) -> None:
    _, answers = whole
    for fast, alone in zip(by(answers, "assisted"), by(answers, "target"), strict=True):
        assert fast["text"] == alone["text"]
        assert [s["text"] for s in fast["steps"]] == [s["text"] for s in alone["steps"]]
        assert fast["draft_tokens"] + fast["target_tokens"] == alone["target_tokens"]
        assert fast["target_tokens"] < alone["target_tokens"] / 2
        assert fast["finish"] == alone["finish"] == "stop"


def test_the_exact_oracle_is_at_least_as_accurate_as_the_target(whole: Any) -> None:
    _, answers = whole
    for oracle, alone in zip(by(answers, "exact"), by(answers, "target"), strict=True):
        assert oracle["right"] >= alone["right"]


def test_statistics_follow_from_the_answers(whole: Any) -> None:
    found, answers = whole
    results = results_of(found.points, found.tasks, [], answers, found.config, found.header)
    point = next(p for p in results["points"] if p["kind"] == "rsd")
    steps = [s for a in by(answers, "rsd@0.95") for s in a["steps"]]
    up = [s for s in steps if s["writer"] == "target"]
    right = sum(a["right"] for a in by(answers, "rsd@0.95"))
    assert point["accuracy"][0] == pytest.approx(right / 3)
    assert point["escalation by steps"] == pytest.approx(len(up) / len(steps))
    tokens = sum(s["tokens"] for s in up) / sum(s["tokens"] for s in steps)
    assert point["escalation by tokens"] == pytest.approx(tokens)
    assert point["wasted"] == pytest.approx(sum(s["s_t"] <= s["s_d"] for s in up) / len(up))
    seconds = sorted(a["seconds"] for a in by(answers, "rsd@0.95"))
    assert point["seconds"]["median"] == pytest.approx(seconds[1], abs=1e-4)
    assert results["questions"][0].keys() == {"id", "question", "reference", "learned"}


def test_an_interrupted_sweep_resumes_with_the_same_results(whole: Any, tmp_path: Path) -> None:
    _, wanted = whole
    stopped = sweep(tmp_path)

    async def some(most: int) -> None:
        running = asyncio.ensure_future(stopped.run())

        def tell(now: Progress) -> None:
            if now.done >= most:
                running.cancel()

        stopped.tell = tell
        with pytest.raises(asyncio.CancelledError):
            await running

    with stopped:
        asyncio.run(some(7))
    file = tmp_path / ANSWERS
    kept = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(kept) + kept[-1][:40])  # killed while writing
    with sweep(tmp_path) as again:
        assert again.resumed == 7
        asyncio.run(again.run())
        found = again.answers()
    assert file.read_bytes().startswith(b"".join(kept))
    order = lambda a: (a["point"], a["question"])  # noqa: E731
    assert [said(a) for a in sorted(found, key=order)] == [
        said(a) for a in sorted(wanted, key=order)
    ]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda folder: sweep(folder, "embedded:2:28"), "dataset is 'embedded:3:28' in the file"),
        (lambda folder: sweep(folder, pilot=9), "pilot is 30 in the file and 9 in"),
        (lambda folder: sweep(folder, concurrency=2), "concurrency is 1 in the file and 2 in"),
    ],
)
def test_answers_of_another_sweep_are_refused_and_unchanged(
    whole: Any, change: Callable[[Path], Sweep], differs: str
) -> None:
    found, _ = whole
    file = found.folder / ANSWERS
    before = file.read_bytes()
    # A copy, since the original is locked by its sweep.
    other = found.folder.with_name("other")
    other.mkdir(exist_ok=True)
    (other / ANSWERS).write_bytes(before)
    with pytest.raises(DataError, match=f"belongs to another sweep: {differs}"), change(other):
        pass
    assert (other / ANSWERS).read_bytes() == before


def test_files_of_another_version_or_format_are_refused(whole: Any, tmp_path: Path) -> None:
    found, _ = whole
    (tmp_path / ANSWERS).write_text(json.dumps(found.header | {"version": 99}) + "\n")
    with pytest.raises(DataError, match="has format version 99, but"), sweep(tmp_path):
        pass
    (tmp_path / ANSWERS).write_text('{"question": "mine"}\n')
    with pytest.raises(DataError, match="is not an answers file of an evaluation"), sweep(tmp_path):
        pass


def test_a_question_beyond_the_context_is_excluded(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "How much is 3 + 4?", "answer": "7"}]
    rows.append({"question": "word " * 5000, "answer": "7"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_dataset(str(path), instruction="")
    settings = ArbitrageSettings(max_tokens=24)
    folder = tmp_path / "out"
    config = EvaluateConfig(resamples=100, concurrency=2)
    with Sweep(dataset, Lineup.of(settings), config, ["draft"], {}, folder) as found:
        asyncio.run(found.run())
        results = results_of(
            found.points, found.tasks, found.left_out, found.answers(), config, found.header
        )
    assert [q["question"] for q in results["questions"]] == ["How much is 3 + 4?"]
    assert "4096 including the answer" in results["left out"][0]["reason"]
