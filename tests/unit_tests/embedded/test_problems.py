"""The problem generator."""

import subprocess
import sys
from itertools import islice

import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.embedded.problems import (
    LEVELS,
    MAX_NUMBER,
    evaluate,
    training_problems,
)


def test_the_same_seed_gives_the_same_problems() -> None:
    assert list(embedded.problems(50, seed=4)) == list(embedded.problems(50, seed=4))
    assert list(embedded.problems(50, seed=4)) != list(embedded.problems(50, seed=5))


def test_held_out_problems_do_not_occur_in_the_training_text() -> None:
    held_out = list(embedded.problems(1000, seed=1))
    training = list(islice(training_problems(seed=1), 1000))
    assert all(p.held_out for p in held_out)
    assert not any(p.held_out for p in training)
    keys = [{(p.template, p.calculations) for p in sample} for sample in (held_out, training)]
    assert not keys[0] & keys[1]


def test_problems_do_not_repeat() -> None:
    sample = list(embedded.problems(1000, seed=2))
    assert len({(p.template, p.calculations) for p in sample}) == len(sample) == 1000


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_a_range_of_steps(level: int) -> None:
    low, high = LEVELS[level]
    for problem in embedded.problems(50, seed=0, level=level):
        assert problem.level == level
        assert low <= len(problem.steps) == len(problem.calculations) <= high


def test_the_error_for_an_unknown_level_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"level is 5; allowed: \[1, 2, 3, 4\]"):
        next(embedded.problems(1, level=5))


def test_every_reference_step_has_its_calculation_and_the_last_one_the_answer() -> None:
    for problem in embedded.problems(500, seed=3):
        for step, c in zip(problem.steps, problem.calculations, strict=True):
            assert f"{c.left} {c.op} {c.right} = " in step
            assert "\n\n" not in step
            assert c.result == evaluate(c.op, c.left, c.right)
            assert 0 <= max(c.left, c.right, c.result) <= MAX_NUMBER
        assert problem.steps[-1].endswith(f"\\boxed{{{problem.answer}}}.")
        assert problem.solution.split("\n\n") == list(problem.steps)


def test_about_a_fifth_of_the_problems_has_a_remainder_and_is_marked_hard() -> None:
    sample = list(embedded.problems(1000, seed=6))
    assert all(p.hard == any(c.op == "%" for c in p.calculations) for p in sample)
    assert 0.15 < sum(p.hard for p in sample) / len(sample) < 0.25


def test_problems_and_checker_do_not_import_torch() -> None:
    program = "import sys, langgraph_arbitrage.embedded; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
