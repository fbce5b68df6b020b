"""`batch_invariant`: results are bit-identical, whatever other requests run."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreRequest
from tiny import make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)


def logprobs(engine: Engine, prompts: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of two steps and a score of each prompt, with all prompts at once."""
    firsts = [engine.submit(GenerateRequest(p, 10)) for p in prompts]
    wholes = [p + f.result().ids for p, f in zip(prompts, firsts, strict=True)]
    seconds = [engine.submit(GenerateRequest(w, 6)) for w in wholes]
    scores = [engine.submit(ScoreRequest(w, start=len(w) - 8)) for w in wholes]
    return [
        first.result().logprobs + second.result().logprobs + score.result().logprobs
        for first, second, score in zip(firsts, seconds, scores, strict=True)
    ]


@pytest.mark.parametrize("kind", ["auto", "plain"])
def test_results_are_bit_identical_alone_and_in_a_batch(kind: str, fresh: Make) -> None:
    engine = fresh(PATH, batch_invariant=True, engine=kind)
    rng = random.Random(0)
    common = random_ids(40)
    prompts = [
        common[: rng.choice((0, 40))] + random_ids(rng.randrange(3, 60), seed=n) for n in range(16)
    ]
    together = logprobs(engine, prompts)
    alone = [logprobs(engine, [p])[0] for p in prompts]
    assert together == alone


def test_by_default_results_are_the_same_except_for_rounding(fresh: Make) -> None:
    engine = fresh(PATH)
    prompts = [random_ids(3 + 3 * n, seed=n) for n in range(16)]
    together = logprobs(engine, prompts)
    alone = [logprobs(engine, [p])[0] for p in prompts]
    assert together != alone  # otherwise `batch_invariant` would not be needed
    for in_batch, expected in zip(together, alone, strict=True):
        assert in_batch == pytest.approx(expected, abs=1e-4)


def test_batch_invariant_does_not_reuse_the_cache(fresh: Make, fed: Counter[int]) -> None:
    engine = fresh(PATH, batch_invariant=True)
    ids = random_ids(30)
    first = engine.submit(GenerateRequest(ids, 5)).result()
    fed.clear()
    second = engine.submit(GenerateRequest(ids + first.ids, 5)).result()
    assert (second.cached_tokens, second.computed_tokens) == (0, 35 + 4)
    assert fed[3] == 39
