"""The points of a sweep: policies and thresholds."""

from __future__ import annotations

import random

import pytest

from langgraph_arbitrage import RSD, DraftConfidence, LearnedRouter, Oracle, Policy
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.evaluation.points import KINDS, Lineup, explicit, rates, spread_thresholds
from tiny import pair

SCORES = [random.Random(i).random() for i in range(400)]


@pytest.mark.parametrize(
    "policy",
    [RSD("embedded:prm"), LearnedRouter("embedded:router", 0.5), DraftConfidence()],
)
def test_thresholds_cover_low_to_high_escalation_rates_for_each_policy(policy: Policy) -> None:
    thresholds = spread_thresholds(policy, SCORES, 5)
    found = sorted(
        sum(policy.with_threshold(t).escalates(s) for s in SCORES) / len(SCORES) for t in thresholds
    )
    assert found == pytest.approx(rates(5), abs=0.01)


def test_thresholds_of_an_oracle_never_choose_the_worse_step() -> None:
    scores = [s - 0.9 for s in SCORES]  # one in ten steps is better
    assert all(t >= 0 for t in spread_thresholds(Oracle("embedded:prm"), scores, 5))


def test_only_the_embedded_pair_has_a_default_router_and_prm() -> None:
    assert Lineup.of(ArbitrageSettings()).kinds(None) == [k for k in KINDS if k != "exact"]
    other = Lineup.of(ArbitrageSettings(**pair()))
    wanted = ["judge", "likelihood", "confidence", "random", "draft", "target", "assisted"]
    assert other.kinds(None) == wanted
    with pytest.raises(SettingsError, match="policy 'rsd' needs a checkpoint: --prm CHECKPOINT"):
        other.kinds("draft, rsd")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("draft,best", "Unknown policy 'best'. Available: router, rsd"),
        (" , ", "the list of policies is empty"),
        ("exact", "policy 'exact' needs embedded problems"),
    ],
)
def test_an_unavailable_policy_is_refused_with_the_reason(wanted: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Lineup.of(ArbitrageSettings()).kinds(wanted)


@pytest.mark.parametrize("text", ["rsd", "rsd=", "rsd=x", "judge=3"])
def test_malformed_thresholds_are_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"rsd=0\.3,0\.5|not a policy of this sweep. Its policies: rsd, draft"
    ):
        explicit([text], ["rsd", "draft"])
