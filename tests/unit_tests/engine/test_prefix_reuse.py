"""What was read once is not read again: counted on the model itself."""

from collections import Counter
from collections.abc import Callable

import pytest

from langgraph_arbitrage.engine import Engine, Score, Write
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slots import KEEP_IDLE
from tiny import generate, make, random_ids

LAYERS = 3
Make = Callable[..., Engine]


@pytest.fixture
def llama(fresh: Make, fed: Counter[int]) -> Engine:
    """A loaded engine; what its capability check fed is not counted."""
    engine = fresh(make("llama", endless=True))
    engine.submit(Write([7], max_tokens=1)).result()
    fed.clear()
    return engine


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_a_follow_up_feeds_only_what_is_new(kind: str, fresh: Make, fed: Counter[int]) -> None:
    engine, ids = fresh(make(kind, endless=True)), random_ids(40)
    first = engine.submit(Write(ids, max_tokens=10)).result()
    fed.clear()
    second = engine.submit(Write([*ids, *first.ids, 11, 12, 13], max_tokens=1)).result()
    assert fed[LAYERS] == 4  # the last written token was never fed, and three are new
    assert (second.fed, second.cached) == (4, 49)


def test_the_same_request_again_feeds_one_token(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(60)
    first = llama.submit(Write(ids, max_tokens=1)).result()
    assert fed[LAYERS] == 60
    fed.clear()
    assert llama.submit(Write(ids, max_tokens=1)).result().ids == first.ids
    assert fed[LAYERS] == 1


def test_writing_feeds_each_token_once(llama: Engine, fed: Counter[int]) -> None:
    written = llama.submit(Write(random_ids(20), max_tokens=30)).result()
    assert fed[LAYERS] == 20 + 30 - 1  # the last token is not fed
    assert (written.fed, written.cached) == (49, 0)


def test_a_rejected_step_costs_no_more_than_itself(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(50)
    llama.submit(Write(ids, max_tokens=8)).result()
    fed.clear()
    llama.submit(Write([*ids, 21, 22, 23], max_tokens=1)).result()
    assert fed[LAYERS] == 3


def test_a_fork_does_not_wreck_the_long_sequence(llama: Engine, fed: Counter[int]) -> None:
    long = random_ids(200)
    llama.submit(Write(long, max_tokens=1)).result()
    fed.clear()
    fork = [*long[:50], *random_ids(20, seed=1)]
    assert llama.submit(Write(fork, max_tokens=1)).result().cached == 50
    assert fed[LAYERS] == 20
    fed.clear()
    llama.submit(Write([*long, 30], max_tokens=1)).result()
    assert fed[LAYERS] == 1


def test_a_short_common_beginning_does_not_wreck_the_long_sequence(
    llama: Engine, fed: Counter[int]
) -> None:
    long = random_ids(200)
    llama.submit(Write(long, max_tokens=1)).result()
    for seed in range(1, 6):
        llama.submit(Write([*long[:3], *random_ids(20, seed=seed)], max_tokens=1)).result()
    fed.clear()
    llama.submit(Write([*long, 30], max_tokens=1)).result()
    assert fed[LAYERS] == 1


def test_a_burst_reads_its_common_beginning_once(llama: Engine, fed: Counter[int]) -> None:
    common = random_ids(300)
    prompts = [[*common, *random_ids(5, seed=n)] for n in range(1, 13)]
    tickets = [llama.submit(Write(p, max_tokens=2)) for p in prompts]
    found = [t.result() for t in tickets]
    assert fed[LAYERS] < 300 + 12 * 30  # one by one without reuse: 12 * 306
    assert sum(w.cached == 300 for w in found) == 11
    path = make("llama", endless=True)
    assert [w.ids for w in found] == [generate(path, p, 2) for p in prompts]


def test_what_a_running_row_has_read_is_copied(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(100)
    second = []

    def on_token(token: int) -> None:
        if not second:  # while the first runs, on the worker's thread
            second.append(llama.submit(Write([*ids, 33], max_tokens=5)))

    llama.submit(Write(ids, max_tokens=40), on_token).result()
    found = second[0].result()
    assert found.cached == 100
    assert found.ids == generate(make("llama", endless=True), [*ids, 33], 5)


def test_scores_and_steps_share_what_is_cached(llama: Engine, fed: Counter[int]) -> None:
    ids = random_ids(80)
    written = llama.submit(Write(ids, max_tokens=6)).result()
    fed.clear()
    reading = llama.submit(Score([*ids, *written.ids], start=80)).result()
    # The first token is judged at the last one before it, which is fed again; the last is not fed.
    assert fed[LAYERS] == reading.fed == 6
    assert reading.logprobs == pytest.approx(written.logprobs, abs=1e-4)


def test_slots_become_as_many_as_conversations_that_take_turns(
    llama: Engine, fed: Counter[int]
) -> None:
    """More than are kept at first: what is missed once is kept from then on."""
    texts = {n: random_ids(40, seed=n) for n in range(1, 2 * KEEP_IDLE + 5)}
    for turn in range(4):
        fed.clear()
        for n, ids in texts.items():
            llama.submit(Write(ids, max_tokens=1)).result()
            texts[n] = [*ids, *random_ids(5, seed=100 * turn + n)]
    assert fed[LAYERS] == 5 * len(texts)


def test_requests_that_never_come_back_get_no_more_slots(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(make("llama", endless=True))
    for n in range(1, 5 * KEEP_IDLE):
        engine.submit(Write(random_ids(40, seed=n), max_tokens=1)).result()
    (arena,) = schedulers[-1].backend.table.arenas.values()
    assert len(arena) == KEEP_IDLE


def test_rare_long_requests_do_not_heap_up_beside_many_short_ones(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    """Idle slots are counted over all arenas: a long one is large."""
    engine = fresh(make("llama", endless=True))
    texts = {n: random_ids(40, seed=n) for n in range(1, 3 * KEEP_IDLE)}
    for _ in range(3):
        for ids in texts.values():
            engine.submit(Write(ids, max_tokens=1)).result()
    for n in range(1, 3 * KEEP_IDLE):
        engine.submit(Write(random_ids(150, seed=200 + n), max_tokens=1)).result()
    short, long = schedulers[-1].backend.table.arenas.values()
    assert len(short) == len(texts)
    assert len(long) == KEEP_IDLE
