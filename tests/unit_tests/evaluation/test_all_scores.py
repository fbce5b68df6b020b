"""One pass over the draft's steps gives the scores of all policies."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from langgraph_arbitrage import RSD, ChatArbitrage, DraftConfidence, Judge, LearnedRouter
from langgraph_arbitrage.cli import evaluate
from langgraph_arbitrage.evaluation.all_scores import AllScores
from langgraph_arbitrage.evaluation.sweep import Progress
from langgraph_arbitrage.policies import Oracle, TargetLikelihood

QUESTION = (
    "Tom makes 46 lamps a day for 7 days. 7 helpers make 95 each. An extra shift makes 10. "
    "How many lamps is that in the end?"
)
POLICIES = {
    "router": LearnedRouter("embedded:router", 1.0),
    "rsd": RSD("embedded:prm", 0.0),
    "judge": Judge(0.0),
    "likelihood": TargetLikelihood(1e9),
    "confidence": DraftConfidence(0.0),
}
"""All accept every step, so that each alone sees the same steps."""


def scores(policy: Any) -> list[float]:
    llm = ChatArbitrage(router=policy, temperature=0)
    steps = llm.invoke(QUESTION).response_metadata["arbitrage"]["steps"]
    return [step["score"] for step in steps]


def test_each_score_is_that_of_the_policy_alone() -> None:
    together = AllScores(POLICIES)
    assert scores(together) == [None] * len(together.rows)
    assert len(together.rows) > 2
    for name, policy in POLICIES.items():
        found = [row[name] for row in together.rows]
        assert found == pytest.approx(scores(policy), abs=1e-3), name


def test_policies_that_compare_both_steps_take_part() -> None:
    together = AllScores({"oracle": Oracle("embedded:prm"), "confidence": DraftConfidence()})
    assert together.needs_target_step
    scores(together)
    assert all(isinstance(row["oracle"], float) for row in together.rows)


def test_progress_lines_count_tokens_before_the_first_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 0.0, 40.0, 400.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    log = evaluate._ProgressLog(Console(file=out, width=200))
    log(Progress(total=100, what="target alone"))
    log(Progress(total=100, tokens=800, what="target alone"))
    log(Progress(total=100, done=10, tokens=8000, what="target alone"))
    assert out.getvalue().splitlines() == [
        "0 of 100 answers, 20.0 tokens/s (target alone)",
        "10 of 100 answers, 20.0 tokens/s, 40.0 s per answer, 60 min left (target alone)",
    ]
