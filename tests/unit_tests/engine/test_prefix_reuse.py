"""Cached tokens are not computed again, counted at the model."""

from collections import Counter
from collections.abc import Callable

import pytest

from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreRequest
from langgraph_arbitrage.engine.kv_cache import FIRST_SLOTS
from langgraph_arbitrage.engine.scheduler import Scheduler
from tiny import generate, make, random_ids

LAYERS = 3
Make = Callable[..., Engine]


@pytest.fixture
def llama(fresh: Make, fed: Counter[int]) -> Engine:
    """A loaded engine. Tokens of its check at load are not counted."""
    engine = fresh(make("llama", endless=True))
    engine.submit(GenerateRequest([7], max_tokens=1)).result()
    fed.clear()
    return engine


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_a_follow_up_only_computes_new_tokens(kind: str, fresh: Make, fed: Counter[int]) -> None:
    engine, ids = fresh(make(kind, endless=True)), random_ids(40)
    first = engine.submit(GenerateRequest(ids, max_tokens=10)).result()
    fed.clear()
    second = engine.submit(GenerateRequest([*ids, *first.ids, 11, 12, 13], max_tokens=1)).result()
    assert fed[LAYERS] == 4  # the last generated token, and three new ones
    assert (second.computed_tokens, second.cached_tokens) == (4, 49)


def test_a_repeated_request_computes_one_token(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(60)
    first = llama.submit(GenerateRequest(ids, max_tokens=1)).result()
    assert fed[LAYERS] == 60
    fed.clear()
    assert llama.submit(GenerateRequest(ids, max_tokens=1)).result().ids == first.ids
    assert fed[LAYERS] == 1


def test_generation_computes_each_token_once(llama: Engine, fed: Counter[int]) -> None:
    output = llama.submit(GenerateRequest(random_ids(20), max_tokens=30)).result()
    assert fed[LAYERS] == 20 + 30 - 1  # the last token is not computed
    assert (output.computed_tokens, output.cached_tokens) == (49, 0)


def test_after_a_rejected_step_only_the_new_step_is_computed(
    llama: Engine, fed: Counter[int]
) -> None:
    ids = random_ids(50)
    llama.submit(GenerateRequest(ids, max_tokens=8)).result()
    fed.clear()
    llama.submit(GenerateRequest([*ids, 21, 22, 23], max_tokens=1)).result()
    assert fed[LAYERS] == 3


def test_a_fork_does_not_overwrite_the_long_sequence(llama: Engine, fed: Counter[int]) -> None:
    long = random_ids(200)
    llama.submit(GenerateRequest(long, max_tokens=1)).result()
    fed.clear()
    fork = [*long[:50], *random_ids(20, seed=1)]
    assert llama.submit(GenerateRequest(fork, max_tokens=1)).result().cached_tokens == 50
    assert fed[LAYERS] == 20
    fed.clear()
    llama.submit(GenerateRequest([*long, 30], max_tokens=1)).result()
    assert fed[LAYERS] == 1


def test_a_short_common_prefix_does_not_overwrite_the_long_sequence(
    llama: Engine, fed: Counter[int]
) -> None:
    long = random_ids(200)
    llama.submit(GenerateRequest(long, max_tokens=1)).result()
    for seed in range(1, 6):
        llama.submit(
            GenerateRequest([*long[:3], *random_ids(20, seed=seed)], max_tokens=1)
        ).result()
    fed.clear()
    llama.submit(GenerateRequest([*long, 30], max_tokens=1)).result()
    assert fed[LAYERS] == 1


def test_a_common_prefix_of_concurrent_requests_is_computed_once(
    llama: Engine, fed: Counter[int]
) -> None:
    common = random_ids(300)
    prompts = [[*common, *random_ids(5, seed=n)] for n in range(1, 13)]
    handles = [llama.submit(GenerateRequest(p, max_tokens=2)) for p in prompts]
    outputs = [h.result() for h in handles]
    assert fed[LAYERS] < 300 + 12 * 30  # without reuse: 12 * 306
    assert sum(o.cached_tokens == 300 for o in outputs) == 11
    path = make("llama", endless=True)
    assert [o.ids for o in outputs] == [generate(path, p, 2) for p in prompts]


def test_the_prefix_of_a_running_sequence_is_copied(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(100)
    second = []

    def on_token(token: int) -> None:
        if not second:  # on the worker's thread, while the first request runs
            second.append(llama.submit(GenerateRequest([*ids, 33], max_tokens=5)))

    llama.submit(GenerateRequest(ids, max_tokens=40), on_token).result()
    output = second[0].result()
    assert output.cached_tokens == 100
    assert output.ids == generate(make("llama", endless=True), [*ids, 33], 5)


def test_scores_and_steps_share_the_cache(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(80)
    step = llama.submit(GenerateRequest(ids, max_tokens=6)).result()
    fed.clear()
    score = llama.submit(ScoreRequest([*ids, *step.ids], start=80)).result()
    # The logits at a token score the next token. So the last prompt token is computed again, but
    # the last token of the step is not computed.
    assert fed[LAYERS] == score.computed_tokens == 6
    assert score.logprobs == pytest.approx(step.logprobs, abs=1e-4)


def test_the_number_of_idle_slots_grows_to_the_number_of_conversations(
    llama: Engine, fed: Counter[int]
) -> None:
    """After a miss caused by an eviction, the cache keeps one more idle slot."""
    texts = {n: random_ids(40, seed=n) for n in range(1, 2 * FIRST_SLOTS + 5)}
    for turn in range(4):
        fed.clear()
        for n, ids in texts.items():
            llama.submit(GenerateRequest(ids, max_tokens=1)).result()
            texts[n] = [*ids, *random_ids(5, seed=100 * turn + n)]
    assert fed[LAYERS] == 5 * len(texts)


def test_unrelated_requests_do_not_increase_the_number_of_slots(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(make("llama", endless=True))
    for n in range(1, 5 * FIRST_SLOTS):
        engine.submit(GenerateRequest(random_ids(40, seed=n), max_tokens=1)).result()
    assert len(schedulers[-1].runner.cache.slots) == FIRST_SLOTS  # type: ignore[attr-defined]
