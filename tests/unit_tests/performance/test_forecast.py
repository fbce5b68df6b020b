"""The arithmetic of the forecast."""

from dataclasses import replace

import pytest

from langgraph_arbitrage.performance.forecast import RATES, Forecast, ReadCost

FREE = ReadCost(0.0, 0.0)
COSTS = Forecast(
    draft_token=1.0,
    target_token=8.0,
    router=4.0,
    graph=2.0,
    draft_read=ReadCost(1.0, 0.1),
    target_read=ReadCost(8.0, 0.5),
    draft_step=20.0,
    target_step=20.0,
    decoded=5.0,
    draft_prompt=5.0,
    target_prompt=30.0,
    router_prompt=4.0,
    steps=6.0,
)
PAPER = replace(
    COSTS,
    graph=0.0,
    draft_read=FREE,
    target_read=FREE,
    decoded=20.0,
    draft_prompt=0.0,
    target_prompt=0.0,
    router_prompt=0.0,
)
"""The assumptions of the paper: prefill is free and no draft token of an escalated step is used."""


def test_under_the_papers_assumptions_the_break_even_is_the_papers() -> None:
    assert PAPER.paper == (20 + 4) / 160
    assert PAPER.break_even() == pytest.approx(PAPER.paper, abs=1e-3)


@pytest.mark.parametrize("verified", [True, False])
def test_at_the_break_even_rate_the_loop_takes_as_long_as_the_target(verified: bool) -> None:
    costs = replace(COSTS, decoded=17.0)
    alpha = costs.break_even(verified=verified)
    assert alpha is not None
    assert 0 < alpha < 1
    assert costs.speed_up(1 - alpha, verified=verified) == pytest.approx(1, abs=1e-3)


def test_a_step_costs_its_parts() -> None:
    """At an escalation rate of 0.5 the target computes 40 new tokens per escalation."""
    verify, decode, catch_up = 8 + 0.5 * 40, 5 * 8, 1 + 0.1 * 20 - 1
    assert COSTS.escalation(0.5) == pytest.approx(verify + decode + catch_up)
    assert COSTS.step(0.5) == pytest.approx(20 + 4 + 2 + 0.5 * (verify + decode + catch_up))
    assert sum(COSTS.parts(0.5).values()) == pytest.approx(COSTS.step(0.5))
    assert COSTS.question(0.5) == pytest.approx(5 + 4 + 30 + 6 * COSTS.step(0.5))
    assert COSTS.question_alone == pytest.approx(30 + 6 * (20 * 8 + 2))


def test_a_step_that_the_target_has_scored_is_not_read_twice() -> None:
    judged = replace(COSTS, target_scores=True)
    verified = replace(judged, target_verifies=True)
    decode, catch_up = 5 * 8, 1 + 0.1 * 20 - 1
    assert judged.escalation(0.5) == pytest.approx(8 + 0.5 * 20 + decode + catch_up)
    assert verified.escalation(0.5) == pytest.approx(decode + catch_up)
    assert verified.question(0) == pytest.approx(5 + 4 + 30 + 6 * (20 + 4 + 2))


def test_more_escalations_and_fewer_accepted_tokens_cost_more() -> None:
    speeds = [COSTS.speed_up(rate) for rate in RATES]
    assert speeds == sorted(speeds, reverse=True)
    for rate in RATES[1:]:
        assert COSTS.speed_up(rate, verified=False) < COSTS.speed_up(rate)


def test_without_escalations_the_target_computes_nothing() -> None:
    assert COSTS.question(0) == pytest.approx(5 + 4 + 6 * (20 + 4 + 2))


def test_a_draft_as_slow_as_the_target_never_pays() -> None:
    costs = replace(COSTS, draft_token=8.0)
    assert costs.break_even() is None
    assert costs.paper > 1


def test_the_loop_pays_at_any_rate_if_escalations_are_cheaper_than_the_target() -> None:
    costs = replace(COSTS, decoded=0.0)
    assert costs.speed_up(1) > 1
    assert costs.break_even() == 0


def test_a_read_cost_is_the_line_through_its_measurements() -> None:
    line = ReadCost.through((10, 3.0), (40, 9.0))
    assert (line.of(10), line.of(25), line.of(40)) == pytest.approx((3.0, 6.0, 9.0))
    noisy = ReadCost.through((10, 3.0), (40, 2.5))
    assert noisy.of(100) == noisy.of(10) == 3.0
