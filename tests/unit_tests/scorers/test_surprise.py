"""The surprise scorer: its features, its head and the tokens it computes."""

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


def score_output(logprobs: list[float], entropies: list[float]) -> ScoreOutput:
    return ScoreOutput([], logprobs, entropies, computed_tokens=0, cached_tokens=0, seconds=0.0)


def test_the_features_match_their_definitions() -> None:
    past = [PastStep("draft", "a", 1, (-2.0,)), PastStep("target", "b", 1)]
    features = surprise_features(past, score_output([-0.5, -3.0, -1.0, -0.1], [0.2, 0.9, 1.4, 0.3]))
    expected = {
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
    assert tuple(expected) == FEATURES
    assert features == pytest.approx(list(expected.values()))


def test_an_empty_or_certain_step_has_finite_features() -> None:
    for each in (score_output([], []), score_output([0.0], [0.0])):
        assert all(map(math.isfinite, surprise_features([], each)))


def test_the_head_matches_the_network_in_torch() -> None:
    torch.manual_seed(0)
    hidden, out = torch.nn.Linear(9, 16), torch.nn.Linear(16, 1)
    mean, deviation, x = torch.randn(9), torch.rand(9) + 0.5, torch.randn(9)
    with torch.no_grad():
        expected = torch.nn.Sequential(hidden, torch.nn.GELU(), out)((x - mean) / deviation)
    weights = {
        "mean": mean,
        "deviation": deviation,
        "w1": hidden.weight,
        "b1": hidden.bias,
        "w2": out.weight[0],
        "b2": out.bias,
    }
    head = SurpriseHead({name: w.detach().numpy() for name, w in weights.items()})
    assert head(x.tolist()) == pytest.approx(expected.sigmoid().item(), abs=1e-6)


def test_a_step_computes_only_its_own_tokens(models: Models, fed: Counter[int]) -> None:
    call = models.scorer_call(SCORER.request(QUESTION, [], STEPS[0]), QUESTION)
    engine, request = call.engine, call.request
    engine.submit(request).result()
    fed.clear()
    past = [PastStep("draft", STEPS[0], 5, (-1.0,))]
    call = models.scorer_call(SCORER.request(QUESTION, past, STEPS[1]), QUESTION)
    engine, longer = call.engine, call.request
    output = engine.submit(longer).result()
    assert output.computed_tokens == fed[2] == len(longer.ids) - len(request.ids)
    ids = list(longer.ids)
    with torch.no_grad():
        logprobs = loaded(BASE)(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [logprobs[i - 1, ids[i]].item() for i in range(len(request.ids), len(ids))]
    assert output.logprobs == pytest.approx(expected, abs=2e-4)
    assert SCORER.read(past, output).policy_state == pytest.approx((min(expected),), abs=2e-4)
