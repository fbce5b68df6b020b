"""`arbitrage collect`: rows match the models, and interrupted collections resume."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification

from collected import PAIR, learnable
from langgraph_arbitrage import AlwaysDraft, ChatArbitrage
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
from langgraph_arbitrage.loop.models import Models, piece_ids
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.policies import LearnedRouter, PastStep
from langgraph_arbitrage.scorers import load_scorer
from langgraph_arbitrage.training import (
    CollectConfig,
    Collector,
    Job,
    Question,
    Row,
    RowFile,
    SurpriseConfig,
    read_rows,
    router_examples,
    score_examples,
    summary,
    train,
)
from langgraph_arbitrage.training.prefix import Prefix
from tiny import QUESTIONS, loaded, make


def collect(
    models: Models, prm: str, n: int = 3, policy: LearnedRouter | None = None, **options: Any
) -> list[Row]:
    config = CollectConfig(prm=prm, **options)
    if config.follow not in ("better", "draft"):
        policy = policy or LearnedRouter(config.follow)
    collector = Collector(models, config, load_scorer(prm), policy)

    async def all_rows() -> list[Row]:
        return [r for q in QUESTIONS[:n] for r in await collector.rows(Question(q))]

    return asyncio.run(all_rows())


def score(prm: str, question: str, steps: list[str]) -> float:
    """Score the last step with plain transformers."""
    past = [PastStep("draft", text, 0) for text in steps[:-1]]
    pieces = load_scorer(prm).request(question, past, steps[-1]).pieces
    ids = [t for piece in piece_ids(load_tokenizer(ModelSpec(prm)), pieces) for t in piece]
    logits = loaded(prm, AutoModelForTokenClassification)(torch.tensor([ids])).logits[0, -1]
    return logits.softmax(-1)[1].item()


def test_rows_hold_the_prms_scores_and_the_trajectory_follows_the_better_step(
    models: Models, prm: str
) -> None:
    rows = collect(models, prm)
    assert {r["taken"] for r in rows} == {0, 1}
    for row in rows:
        s_d, s_t = (score(prm, row["question"], [*row["history"], row[z]]) for z in ("z_d", "z_t"))
        assert (row["s_d"], row["s_t"]) == pytest.approx((s_d, s_t), abs=1e-4)
        assert row["delta"] == pytest.approx(row["s_t"] - row["s_d"], abs=2e-6)
        assert row["y"] == row["taken"] == (row["delta"] > 0)
    for row, after in pairwise(rows):
        if row["question"] == after["question"]:
            assert after["history"] == [*row["history"], row["z_t" if row["taken"] else "z_d"]]
            assert after["tags"] == [*row["tags"], row["taken"]]
    assert [len(r["history"]) for r in rows] == [0, 1, 2, 3] * 3


def test_following_the_draft_yields_the_answer_of_the_draft_alone(models: Models, prm: str) -> None:
    rows = collect(models, prm, follow="draft", replace=0.0, give_up=9)
    llm = ChatArbitrage(**PAIR, router=AlwaysDraft())
    for question in QUESTIONS[:3]:
        text = "".join(r["z_d"] for r in rows if r["question"] == question)
        assert text.strip() == llm.invoke(question).text.strip()
    llm.close()


def test_a_trajectory_ends_after_give_up_worse_steps(models: Models, prm: str) -> None:
    rows = collect(models, prm, n=1, follow="draft", replace=0.0, give_up=1)
    assert [r["y"] for r in rows] == [0] * (len(rows) - 1) + [1]


def test_a_followed_router_chooses_the_steps(models: Models, prm: str) -> None:
    router = make("llama", 5, head="token-classification")
    rows = collect(models, prm, follow=router)
    scorer = LearnedRouter(router).scorer
    scored = asyncio.run(score_examples(models, scorer, router_examples(rows).examples))
    assert [r["taken"] for r in rows] == [int(s.score.value > 0.5) for s in scored]
    assert {r["taken"] for r in rows} == {0, 1}


def test_collected_steps_are_scored_as_in_the_loop_after_steps_of_either_model(
    models: Models, prm: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "router")
    base = make("llama", 7, num_hidden_layers=2)
    names = {role: public_name(PAIR[role]) for role in ("draft", "target")}
    data = router_examples([{**r, **names} for r in learnable(12)])  # type: ignore[typeddict-item]
    train(Job(data, base, Path(path), SurpriseConfig(), "cpu"))
    scores = [
        s.score.value
        for s in asyncio.run(
            score_examples(
                models, load_scorer(path), router_examples(collect(models, prm)).examples
            )
        )
    ]
    policy = LearnedRouter(path, median(scores))
    rows = collect(models, prm, follow=path, policy=policy)
    assert {r["taken"] for r in rows} == {0, 1}
    scored = asyncio.run(score_examples(models, load_scorer(path), router_examples(rows).examples))
    llm = ChatArbitrage(**PAIR, router=policy)
    steps = [
        step
        for question in QUESTIONS[:3]
        for step in llm.invoke(question).response_metadata["arbitrage"]["steps"]
    ]
    llm.close()
    assert [s["writer"] == "target" for s in steps] == [r["taken"] == 1 for r in rows]
    loop_scores = [s["score"] for s in steps]
    assert loop_scores == pytest.approx([s.score.value for s in scored], abs=1e-4)


def test_scores_of_several_target_steps_are_averaged(
    models: Models, prm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    generate = Prefix.generate

    async def recording(self: Prefix, role: Any, *args: Any) -> Any:
        step = await generate(self, role, *args)
        if role == "target" and not self.texts:
            texts.append(step["text"])
        return step

    monkeypatch.setattr(Prefix, "generate", recording)
    row = collect(models, prm, n=1, samples=3)[0]
    assert len(set(texts)) > 1
    mean = fmean(score(prm, row["question"], [text]) for text in texts)
    assert (row["s_t"], row["samples"]) == (pytest.approx(mean, abs=1e-4), 3)


def test_a_margin_turns_small_advantages_into_ties(models: Models, prm: str) -> None:
    rows = collect(models, prm)
    middle = sorted(r["delta"] for r in rows if r["delta"] > 0)[0]
    strict = collect(models, prm, margin=middle + 1e-4)
    assert [r["y"] for r in strict] == [int(r["delta"] > middle + 1e-4) for r in strict]
    assert sum(r["y"] for r in strict) < sum(r["delta"] > 0 for r in strict)


def test_equal_steps_have_no_advantage_and_equal_rollouts_add_no_rows(prm: str) -> None:
    models = Models(ArbitrageSettings(**{**PAIR, "target": PAIR["draft"]}))
    once, thrice = (collect(models, prm, n=1, rollouts=n) for n in (1, 3))
    models.close()
    assert [r["history"] for r in once] == [r["history"] for r in thrice]
    assert [r["z_t"] for r in once] == [r["z_d"] for r in once]
    assert {(r["delta"], r["y"]) for r in once} == {(0.0, 0)}


def test_sampled_rollouts_add_rows_and_are_reproducible(models: Models, prm: str) -> None:
    options: dict[str, Any] = {"n": 1, "rollouts": 3, "sampled": 1.0}
    first, again = collect(models, prm, **options), collect(models, prm, **options)
    assert [(r["history"], r["z_d"]) for r in first] == [(r["history"], r["z_d"]) for r in again]
    assert len(first) > len(collect(models, prm, n=1))
    assert {r["rows"] for r in first} == {len(first)}


def comparable(path: Path) -> list[Any]:
    """The parts of the rows that do not depend on rounding in other batches."""
    rows = read_rows([path])
    return sorted(
        (r["question"], r["history"], r["z_d"], r["z_t"], round(r["s_t"], 3)) for r in rows
    )


@pytest.mark.slow
def test_a_killed_collection_resumes_where_it_stopped(
    arbitrage: Callable[..., Any], options: list[str], questions: Path, prm: str, tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    command = ["collect", str(questions), "--prm", prm, "--concurrency", "1", *options, "-o"]
    program = "import sys; from collect_slowly import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "collect_slowly.py").write_text(
        "import time\n"
        "from langgraph_arbitrage.cli import main\n"
        "from langgraph_arbitrage.training import RowFile\n"
        "append = RowFile.append\n"
        "def slowly(self, rows):\n"
        "    append(self, rows)\n"
        "    time.sleep(0.3)\n"
        "RowFile.append = slowly\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command, str(killed)],
        env={**os.environ, "PYTHONPATH": path},
    )
    deadline = time.monotonic() + 60
    while not (killed.exists() and killed.read_bytes().count(b"\n") >= 8):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = len(killed.read_text().splitlines())
    with killed.open("a") as file:
        file.write('{"question": "A crate')
    status, out, err = arbitrage(*command, killed)
    assert (status, lines < len(killed.read_text().splitlines())) == (0, True)
    assert "Resuming: " in err
    assert arbitrage(*command, whole)[0] == 0
    assert comparable(killed) == comparable(whole)
    assert out == summary(read_rows([whole])) + "\n"


def test_ctrl_c_keeps_complete_questions_and_parquet_is_written_at_the_end(
    arbitrage: Callable[..., Any],
    options: list[str],
    questions: Path,
    prm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "rows.parquet"
    command = ["collect", questions, "--prm", prm, "--concurrency", "2", *options, "-o", path]
    append = RowFile.append

    def interrupting(self: RowFile, rows: list[Row]) -> None:
        append(self, rows)
        if len(self.done) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RowFile, "append", interrupting)
    assert arbitrage(*command)[0] == 130
    assert not path.exists()
    monkeypatch.setattr(RowFile, "append", append)
    status, _, err = arbitrage(*command)
    assert (status, "already contains 3 questions" in err) == (0, True)
    assert {r["question"] for r in read_rows([path])} == set(QUESTIONS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["questions.jsonl", "rows.parquet"]


def test_the_summary_shows_balance_and_advantages() -> None:
    rows = learnable(20)
    text = summary(rows)
    positive = sum(r["y"] for r in rows)
    assert text.startswith("40 rows from 20 questions\n")
    assert f"{positive} ({positive / 40:.1%})" in text
    counts = [int(n) for n in re.findall(r"^\[.*[\])] +(\d+)", text, re.MULTILINE)]
    assert (len(counts), sum(counts)) == (20, 40)
    assert counts[12] + counts[13] + counts[14] == positive  # Δ of 0.2 to 0.5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--column", "problem"], "no column 'problem'; its columns are 'question'"),
        (["--prm", "checker"], "the exact checker only checks embedded problems"),
        (["--prm", "./no-such-folder"], "./no-such-folder"),
        (["--margin", "-1"], "--margin -1.0: Input should be greater"),
        (["--follow", "./no-such-router"], "./no-such-router"),
        (["-o", "rows.txt"], "not as '.txt'"),
    ],
)
def test_bad_input_is_reported_before_any_work(
    argv: list[str],
    message: str,
    arbitrage: Callable[..., Any],
    options: list[str],
    questions: Path,
    prm: str,
    tmp_path: Path,
) -> None:
    output = tmp_path / "rows.jsonl"
    status, out, err = arbitrage("collect", questions, "--prm", prm, "-o", output, *options, *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert not output.exists() or not output.read_text()


def test_questions_that_exceed_the_context_are_counted(
    arbitrage: Callable[..., Any], options: list[str], prm: str, tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    long = "apples and " * 600
    path.write_text("".join(json.dumps({"question": q}) + "\n" for q in (QUESTIONS[0], long)))
    status, out, _ = arbitrage("collect", path, "--prm", prm, "-o", tmp_path / "r.jsonl", *options)
    assert status == 0
    assert "4 rows from 1 questions" in out
    assert "exceed a model's context: 1 questions" in out
