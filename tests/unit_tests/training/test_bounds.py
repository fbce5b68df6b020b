"""The bound on the mean loss holds with the stated confidence and is tight."""

from __future__ import annotations

import random

import pytest

from langgraph_arbitrage.training import loss_bound

RUNS = 400
MAX_MISSES = 31  # of 400 at 5 %: more misses have a probability below 1 in 200


def draw_losses(rng: random.Random, lost: float, won: float, n: int) -> list[float]:
    return [float((u := rng.random()) < lost) - float(u > 1 - won) for _ in range(n)]


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0.01, 0.0, 100), (0.05, 0.03, 100), (0.3, 0.2, 60), (0.5, 0.3, 40)]
)
def test_the_mean_exceeds_the_bound_no_more_often_than_the_confidence_allows(
    lost: float, won: float, n: int
) -> None:
    rng = random.Random(f"{lost}/{won}/{n}")
    misses = sum(lost - won > loss_bound(draw_losses(rng, lost, won, n)) for _ in range(RUNS))
    assert misses <= MAX_MISSES


def test_the_bound_holds_for_continuous_losses() -> None:
    rng = random.Random(0)
    losses = [[max(-1.0, min(1.0, rng.gauss(0.05, 0.2))) for _ in range(80)] for _ in range(RUNS)]
    mean = sum(map(sum, losses)) / (80 * RUNS)
    assert sum(mean > loss_bound(sample) for sample in losses) <= MAX_MISSES


def test_more_questions_and_a_lower_confidence_tighten_the_bound() -> None:
    few, many = ([0.0, 0.0, 0.0, 0.0, 1.0] * n for n in (10, 100))
    assert 0.2 < loss_bound(many) < loss_bound(few) < 0.5
    assert loss_bound(many, 0.8) < loss_bound(many, 0.99)


def test_a_small_variance_tightens_the_bound() -> None:
    losses = [1.0] * 5 + [-1.0] * 5 + [0.0] * 490
    random.Random(0).shuffle(losses)
    # Hoeffding's inequality, for losses in [-1, 1]: (2 ln 20 / 500) ** 0.5 = 0.109.
    assert loss_bound(losses) < 0.03


def test_the_bound_is_one_without_questions_and_never_negative() -> None:
    assert loss_bound([]) == 1.0
    assert loss_bound([-1.0] * 200) == pytest.approx(0.0, abs=1e-6)
