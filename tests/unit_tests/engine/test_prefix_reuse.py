"""What was read once is not read again: counted on the model itself."""

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
    """A loaded engine; what its capability check fed is not counted."""
    engine = fresh(make("llama", endless=True))
    engine.submit(GenerateRequest([7], max_tokens=1)).result()
    fed.clear()
    return engine


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_a_follow_up_feeds_only_what_is_new(kind: str, fresh: Make, fed: Counter[int]) -> None:
    engine, ids = fresh(make(kind, endless=True)), random_ids(40)
    first = engine.submit(GenerateRequest(ids, max_tokens=10)).result()
    fed.clear()
    second = engine.submit(GenerateRequest([*ids, *first.ids, 11, 12, 13], max_tokens=1)).result()
    assert fed[LAYERS] == 4  # the last written token was never fed, and three are new
    assert (second.computed_tokens, second.cached_tokens) == (4, 49)


def test_the_same_request_again_feeds_one_token(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(60)
    first = llama.submit(GenerateRequest(ids, max_tokens=1)).result()
    assert fed[LAYERS] == 60
    fed.clear()
    assert llama.submit(GenerateRequest(ids, max_tokens=1)).result().ids == first.ids
    assert fed[LAYERS] == 1


def test_writing_feeds_each_token_once(llama: Engine, fed: Counter[int]) -> None:
    written = llama.submit(GenerateRequest(random_ids(20), max_tokens=30)).result()
    assert fed[LAYERS] == 20 + 30 - 1  # the last token is not fed
    assert (written.computed_tokens, written.cached_tokens) == (49, 0)


def test_a_rejected_step_costs_no_more_than_itself(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(50)
    llama.submit(GenerateRequest(ids, max_tokens=8)).result()
    fed.clear()
    llama.submit(GenerateRequest([*ids, 21, 22, 23], max_tokens=1)).result()
    assert fed[LAYERS] == 3


def test_a_fork_does_not_wreck_the_long_sequence(llama: Engine, fed: Counter[int]) -> None:
    long = random_ids(200)
    llama.submit(GenerateRequest(long, max_tokens=1)).result()
    fed.clear()
    fork = [*long[:50], *random_ids(20, seed=1)]
    assert llama.submit(GenerateRequest(fork, max_tokens=1)).result().cached_tokens == 50
    assert fed[LAYERS] == 20
    fed.clear()
    llama.submit(GenerateRequest([*long, 30], max_tokens=1)).result()
    assert fed[LAYERS] == 1


def test_a_short_common_beginning_does_not_wreck_the_long_sequence(
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


def test_a_burst_reads_its_common_beginning_once(llama: Engine, fed: Counter[int]) -> None:
    common = random_ids(300)
    prompts = [[*common, *random_ids(5, seed=n)] for n in range(1, 13)]
    tickets = [llama.submit(GenerateRequest(p, max_tokens=2)) for p in prompts]
    found = [t.result() for t in tickets]
    assert fed[LAYERS] < 300 + 12 * 30  # one by one without reuse: 12 * 306
    assert sum(w.cached_tokens == 300 for w in found) == 11
    path = make("llama", endless=True)
    assert [w.ids for w in found] == [generate(path, p, 2) for p in prompts]


def test_what_a_running_row_has_read_is_copied(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(100)
    second = []

    def on_token(token: int) -> None:
        if not second:  # while the first runs, on the worker's thread
            second.append(llama.submit(GenerateRequest([*ids, 33], max_tokens=5)))

    llama.submit(GenerateRequest(ids, max_tokens=40), on_token).result()
    found = second[0].result()
    assert found.cached_tokens == 100
    assert found.ids == generate(make("llama", endless=True), [*ids, 33], 5)


def test_scores_and_steps_share_what_is_cached(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(80)
    written = llama.submit(GenerateRequest(ids, max_tokens=6)).result()
    fed.clear()
    reading = llama.submit(ScoreRequest([*ids, *written.ids], start=80)).result()
    # The first token is judged at the last one before it, which is fed again; the last is not fed.
    assert fed[LAYERS] == reading.computed_tokens == 6
    assert reading.logprobs == pytest.approx(written.logprobs, abs=1e-4)


def test_slots_become_as_many_as_conversations_that_take_turns(
    llama: Engine, fed: Counter[int]
) -> None:
    """More than are kept at first: what is missed once is kept from then on."""
    texts = {n: random_ids(40, seed=n) for n in range(1, 2 * FIRST_SLOTS + 5)}
    for turn in range(4):
        fed.clear()
        for n, ids in texts.items():
            llama.submit(GenerateRequest(ids, max_tokens=1)).result()
            texts[n] = [*ids, *random_ids(5, seed=100 * turn + n)]
    assert fed[LAYERS] == 5 * len(texts)


def test_requests_that_never_come_back_get_no_more_slots(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(make("llama", endless=True))
    for n in range(1, 5 * FIRST_SLOTS):
        engine.submit(GenerateRequest(random_ids(40, seed=n), max_tokens=1)).result()
    assert len(schedulers[-1].runner.cache.slots) == FIRST_SLOTS  # type: ignore[attr-defined]
