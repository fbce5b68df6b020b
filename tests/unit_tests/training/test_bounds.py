"""The bound on a mean loss: it holds as often as it says, and is worth having."""

from __future__ import annotations

import random

import pytest

from langgraph_arbitrage.training import loss_bound

RUNS = 400
MOST_MISSES = 31  # of 400 at 5 %: more has a probability below 1 in 200


def drawn(draw: random.Random, lost: float, won: float, n: int) -> list[float]:
    return [float((u := draw.random()) < lost) - float(u > 1 - won) for _ in range(n)]


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0.01, 0.0, 100), (0.05, 0.03, 100), (0.3, 0.2, 60), (0.5, 0.3, 40)]
)
def test_the_mean_is_above_the_bound_as_seldom_as_the_confidence_says(
    lost: float, won: float, n: int
) -> None:
    draw = random.Random(f"{lost}/{won}/{n}")
    misses = sum(lost - won > loss_bound(drawn(draw, lost, won, n)) for _ in range(RUNS))
    assert misses <= MOST_MISSES


def test_it_holds_for_losses_that_are_no_counts() -> None:
    draw = random.Random(0)
    losses = [[max(-1.0, min(1.0, draw.gauss(0.05, 0.2))) for _ in range(80)] for _ in range(RUNS)]
    mean = sum(map(sum, losses)) / (80 * RUNS)
    assert sum(mean > loss_bound(found) for found in losses) <= MOST_MISSES


def test_more_questions_and_less_confidence_tighten_it() -> None:
    few, many = ([0.0, 0.0, 0.0, 0.0, 1.0] * n for n in (10, 100))
    assert 0.2 < loss_bound(many) < loss_bound(few) < 0.5
    assert loss_bound(many, 0.8) < loss_bound(many, 0.99)


def test_it_uses_small_variance() -> None:
    losses = [1.0] * 5 + [-1.0] * 5 + [0.0] * 490
    random.Random(0).shuffle(losses)
    # Hoeffding's inequality, for losses in [-1, 1]: (2 ln 20 / 500) ** 0.5 = 0.109.
    assert loss_bound(losses) < 0.03


def test_nothing_is_known_of_no_questions_and_nothing_is_won_beyond_none_lost() -> None:
    assert loss_bound([]) == 1.0
    assert loss_bound([-1.0] * 200) == pytest.approx(0.0, abs=1e-6)
