"""The exact checker."""

import random

import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.embedded.checker import parse_step
from langgraph_arbitrage.embedded.problems import Calculation, Problem

PROBLEM = Problem(
    question="Ann buys 4 cups at 26 dollars each. Shipping adds 58 dollars. 2 people share.",
    answer=81,
    steps=(
        "The cups cost 4 * 26 = 80 + 24 = 104.",
        "With shipping it is 104 + 58 = 154 + 8 = 162.",
        "One share is 162 / 2 = 81, so the answer is \\boxed{81}.",
    ),
    level=1,
    hard=False,
    calculations=(
        Calculation("*", 4, 26, 104),
        Calculation("+", 104, 58, 162),
        Calculation("/", 162, 2, 81),
    ),
    template="shop",
)
FIRST, SECOND, THIRD = PROBLEM.steps


def test_reference_steps_are_right_in_their_order() -> None:
    for problem in embedded.problems(500, seed=7):
        for i, step in enumerate(problem.steps):
            assert embedded.check_step(problem, problem.steps[:i], step), step
        assert embedded.check_answer(problem, problem.solution)


def test_reference_steps_are_right_in_any_order_that_ends_with_the_answer() -> None:
    rng = random.Random(0)
    for problem in embedded.problems(200, seed=8):
        order = [*rng.sample(problem.steps[:-1], len(problem.steps) - 1), problem.steps[-1]]
        for i, step in enumerate(order):
            assert embedded.check_step(problem, order[:i], step), step


@pytest.mark.parametrize(
    "step",
    [
        "So all the cups together come to 4 * 26 = 104 dollars.",
        "26 * 4 = 104",
        "$4 \\times 26 = 104$",
        "4 × 26 = 4 × 20 + 4 × 6 = 80 + 24 = 104",
        "4 times 26 equals 104.",
        "4 x 26 = 104",
        "She pays 4 cups * 26 dollars = $104.",
        "The cups: 4 * 26 = 104, with shipping 104 + 58 = 162.",
        "We get 58 + 104 = 162.",
        "The answer is \\boxed{81}.",
    ],
)
def test_wording_operand_order_and_spelling_do_not_matter(step: str) -> None:
    assert embedded.check_step(PROBLEM, [], step)


@pytest.mark.parametrize(
    "step",
    [
        "The cups cost 4 * 26 = 80 + 24 = 105.",
        "The cups cost 4 * 26 = 80 + 25 = 104.",
        "The cups cost 4 * 26 = 80 + 25 = 105.",
        "The cups cost 4 * 27 = 80 + 28 = 108.",
        "The cups cost 4 + 26 = 30.",
        "The share is 2 / 162 = 81.",
        "With shipping it is 104 + 58 = 162, so the answer is \\boxed{162}.",
        "The cups cost 4 * 26 =",
        "The cups cost 104.",
        "4 * 26 = 104.5",
        "4 * 26 = 1040",
        "-4 * 26 = 104",
        "4 * 26 = 104 and 1 + 1 = 2",
        "\\boxed{81} or \\boxed{82}",
        "\\boxed{eighty-one}",
        "",
        "Let me think.",
    ],
)
def test_almost_right_steps_are_wrong(step: str) -> None:
    assert not embedded.check_step(PROBLEM, [], step)


def test_a_repeated_step_is_wrong() -> None:
    assert not embedded.check_step(PROBLEM, [FIRST], FIRST)


def test_a_wrong_earlier_step_leaves_its_calculation_open() -> None:
    wrong = "The cups cost 4 * 26 = 80 + 14 = 94."
    assert embedded.check_step(PROBLEM, [wrong], FIRST)
    assert not embedded.check_step(PROBLEM, [wrong], "With shipping it is 94 + 58 = 152.")


def test_every_step_after_the_answer_is_wrong() -> None:
    assert not embedded.check_step(PROBLEM, [FIRST, THIRD], SECOND)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("so \\boxed{81}", True),
        ("\\boxed{82}, no: \\boxed{81}", True),
        ("\\boxed{$81$}", True),
        ("\\boxed{81.0}", True),
        ("\\boxed{82}", False),
        ("\\boxed{}", False),
        ("81", False),
    ],
)
def test_the_answer_is_the_last_boxed_number(text: str, right: bool) -> None:
    assert embedded.check_answer(PROBLEM, text) == right


def test_any_text_can_be_parsed() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        parse_step("".join(rng.choices("0123456789+-*/%=.,x \\boxed{}$:", k=rng.randint(0, 30))))
