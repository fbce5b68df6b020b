"""`arbitrage demo`: live answers, then a table."""

from __future__ import annotations

import re
import signal

import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.cli.demo_table import PolicyAnswers, demo_table
from langgraph_arbitrage.runner import Answer, Runner

ROWS = ("draft only", "target only", "arbitraged")
SHORT = ("--max-tokens", "12")


def row(out: str, name: str) -> list[str]:
    """The cells of a row of the table."""
    return next(x for x in out.splitlines() if x.strip().startswith(name)).split()[-6:]


def test_live_problems_are_answered_with_a_verdict(arbitrage, models):
    status, out, _ = arbitrage("demo", "--live", "2", "--questions", "0", *models, *SHORT)
    problems = list(embedded.problems(2, 0))
    assert status == 0
    assert all(problem.question in out for problem in problems)
    assert [int(x) for x in re.findall(r"the answer is (\d+)", out)] == [p.answer for p in problems]


def test_the_table_compares_draft_target_and_both(arbitrage, models):
    _, out, _ = arbitrage("demo", "--live", "0", "--questions", "2", *models, *SHORT)
    assert "2 held-out problems" in out
    assert row(out, "draft only")[4] == "0%"
    assert row(out, "target only")[4:] == ["100%", "1.00×"]
    assert row(out, "arbitraged")


def test_seed_and_level_select_the_problems(arbitrage, models):
    argv = ("demo", "--live", "1", "--questions", "0", "--level", "1", "--seed", "7")
    _, out, _ = arbitrage(*argv, *models, *SHORT)
    assert next(embedded.problems(1, 7, 1)).question in out


def test_ctrl_c_prints_the_table_of_the_problems_that_all_policies_answered(
    arbitrage, models, monkeypatch
):
    answer, calls = Runner.answer, []

    def interrupted_answer(self, question, listener=None):
        calls.append(question)
        if len(calls) == 5:  # second problem, second policy
            signal.raise_signal(signal.SIGINT)
        return answer(self, question, listener)

    monkeypatch.setattr(Runner, "answer", interrupted_answer)
    status, out, _ = arbitrage("demo", "--live", "0", "--questions", "3", *models, *SHORT)
    assert status == 130
    assert "1 of 3 held-out problems" in out
    assert all(row(out, name) for name in ROWS)


def test_ctrl_c_while_answering_live_ends_the_demo(interrupted, models):
    steps = ("--policy", "draft", "--max-tokens", "1000")
    status, out = interrupted("demo", "--live", "3", "--questions", "1", *models, *steps)
    assert status == 130
    assert "held-out" not in out


def test_the_embedded_models_need_no_options(arbitrage):
    status, out, _ = arbitrage("demo", "--live", "0", "--questions", "2", "--level", "1")
    assert status == 0
    assert all(row(out, name) for name in (*ROWS, "RSD"))
    assert "Policy: LearnedRouter" in " ".join(out.split())


@pytest.fixture
def rows() -> list[PolicyAnswers]:
    """Three problems' answers: the draft right once, the target always, in twice the time."""
    step = {"writer": "draft"}

    def answers(
        seconds: float, right: list[bool], **statistics: object
    ) -> list[tuple[Answer, bool]]:
        return [(Answer("", "", {"steps": [step]} | statistics, {}, seconds), ok) for ok in right]

    by_target = {"steps": [{"writer": "target"}]}
    both = {"steps": [step, step, step, {"writer": "target"}]}
    runner = type("Policy", (), {"policy": "a policy"})()
    return [
        PolicyAnswers("draft only", runner, answers(0.1, [True, False, False])),
        PolicyAnswers("target only", runner, answers(0.4, [True, True, True], **by_target)),
        PolicyAnswers("arbitraged", runner, answers(0.2, [True, False, True], **both)),
    ]


def test_the_table_shows_accuracy_with_and_without_hard_problems(rows, capsys):
    from rich.console import Console

    learned = next(p for p in embedded.problems(50) if not p.hard)
    hard = next(p for p in embedded.problems(50) if p.hard)
    Console(width=100).print(demo_table([learned, hard, learned], rows, total=3))
    out = capsys.readouterr().out
    assert row(out, "draft only") == ["33%", "50%", "0.100", "0.100", "0%", "4.00×"]
    assert row(out, "target only") == ["100%", "100%", "0.400", "0.400", "100%", "1.00×"]
    assert row(out, "arbitraged") == ["67%", "100%", "0.200", "0.200", "25%", "2.00×"]
    assert "on the 2 problems whose steps the models were trained on" in " ".join(out.split())
