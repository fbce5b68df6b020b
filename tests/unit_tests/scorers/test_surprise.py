"""The surprise scorer: features of a causal LM over a step, and what they cost."""

import math
from collections import Counter

import pytest
import torch

from langgraph_arbitrage import Models, PastStep
from langgraph_arbitrage.engine import ScoreOutput
from langgraph_arbitrage.scorers import SurpriseHead, SurpriseScorer, surprise_features
from langgraph_arbitrage.scorers.surprise import FEATURES
from tiny import loaded, make

BASE = make("llama", num_hidden_layers=2)
SCORER = SurpriseScorer("s", BASE, "<user>", "<end>\n<assistant>")
QUESTION, STEPS = "How many has she?", ["She has 3 apples.\n\n", "So 3 + 4 = 7.\n\n"]


def reading(logprobs: list[float], entropies: list[float]) -> ScoreOutput:
    return ScoreOutput([], logprobs, entropies, computed_tokens=0, cached_tokens=0, seconds=0.0)


def test_each_feature_is_what_it_is_called() -> None:
    past = [PastStep("draft", "a", 1, (-2.0,)), PastStep("target", "b", 1)]
    found = surprise_features(past, reading([-0.5, -3.0, -1.0, -0.1], [0.2, 0.9, 1.4, 0.3]))
    wanted = {
        "mean": -1.15,
        "lowest": -3.0,
        "log_lowest": math.log(3),
        "two_lowest": -4.0,
        "past_lowest": -2.0,
        "log_past_lowest": math.log(2),
        "most_entropy": 1.4,
        "entropy_there": 0.9,
        "position": 0.25,
    }
    assert tuple(wanted) == FEATURES
    assert found == pytest.approx(list(wanted.values()))


def test_a_step_without_tokens_or_doubt_has_finite_features() -> None:
    for each in (reading([], []), reading([0.0], [0.0])):
        assert all(map(math.isfinite, surprise_features([], each)))


def test_the_head_is_its_network() -> None:
    torch.manual_seed(0)
    hidden, out = torch.nn.Linear(9, 16), torch.nn.Linear(16, 1)
    mean, deviation, x = torch.randn(9), torch.rand(9) + 0.5, torch.randn(9)
    with torch.no_grad():
        wanted = torch.nn.Sequential(hidden, torch.nn.GELU(), out)((x - mean) / deviation)
    weights = {
        "mean": mean,
        "deviation": deviation,
        "w1": hidden.weight,
        "b1": hidden.bias,
        "w2": out.weight[0],
        "b2": out.bias,
    }
    head = SurpriseHead({name: w.detach().numpy() for name, w in weights.items()})
    assert head(x.tolist()) == pytest.approx(wanted.sigmoid().item(), abs=1e-6)


def test_a_step_costs_as_many_tokens_as_it_has(models: Models, fed: Counter[int]) -> None:
    call = models.scorer_call(SCORER.request(QUESTION, [], STEPS[0]))
    engine, request = call.engine, call.request
    engine.submit(request).result()
    fed.clear()
    past = [PastStep("draft", STEPS[0], 5, (-1.0,))]
    call = models.scorer_call(SCORER.request(QUESTION, past, STEPS[1]))
    engine, longer = call.engine, call.request
    found = engine.submit(longer).result()
    assert found.computed_tokens == fed[2] == len(longer.ids) - len(request.ids)
    ids = list(longer.ids)
    with torch.no_grad():
        spread = loaded(BASE)(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = [spread[i - 1, ids[i]].item() for i in range(len(request.ids), len(ids))]
    assert found.logprobs == pytest.approx(wanted, abs=2e-4)
    assert SCORER.read(past, found).policy_state == pytest.approx((min(wanted),), abs=2e-4)
