"""`batch_invariant`: the last bit of every number is the same, whatever else is asked."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreRequest
from tiny import make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)


def asked(engine: Engine, prompts: list[list[int]]) -> list[list[float]]:
    """Two steps and a score of each, all prompts at once; their log-probabilities."""
    firsts = [engine.submit(GenerateRequest(p, 10)) for p in prompts]
    wholes = [p + t.result().ids for p, t in zip(prompts, firsts, strict=True)]
    seconds = [engine.submit(GenerateRequest(w, 6)) for w in wholes]
    scores = [engine.submit(ScoreRequest(w, start=len(w) - 8)) for w in wholes]
    return [
        first.result().logprobs + second.result().logprobs + score.result().logprobs
        for first, second, score in zip(firsts, seconds, scores, strict=True)
    ]


@pytest.mark.parametrize("kind", ["auto", "plain"])
def test_an_answer_is_the_same_to_the_last_bit_alone_and_among_others(
    kind: str, fresh: Make
) -> None:
    engine = fresh(PATH, batch_invariant=True, engine=kind)
    rng = random.Random(0)
    common = random_ids(40)
    prompts = [
        common[: rng.choice((0, 40))] + random_ids(rng.randrange(3, 60), seed=n) for n in range(16)
    ]
    together = asked(engine, prompts)
    alone = [asked(engine, [p])[0] for p in prompts]
    assert together == alone


def test_the_ordinary_engine_is_the_same_but_for_rounding(fresh: Make) -> None:
    engine = fresh(PATH)
    prompts = [random_ids(3 + 3 * n, seed=n) for n in range(16)]
    together = asked(engine, prompts)
    alone = [asked(engine, [p])[0] for p in prompts]
    assert together != alone  # what the exact one is for
    for found, wanted in zip(together, alone, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


def test_exactness_costs_reading_again(fresh: Make, fed: Counter[int]) -> None:
    engine = fresh(PATH, batch_invariant=True)
    ids = random_ids(30)
    first = engine.submit(GenerateRequest(ids, 5)).result()
    fed.clear()
    second = engine.submit(GenerateRequest(ids + first.ids, 5)).result()
    assert (second.cached_tokens, second.computed_tokens) == (0, 35 + 4)
    assert fed[3] == 39
