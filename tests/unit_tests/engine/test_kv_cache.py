"""The KV cache: slots grow, are reused by prefix, and are evicted in order of use."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from langgraph_arbitrage.engine import Engine, GenerateRequest
from langgraph_arbitrage.engine.attention import PackedLayout
from langgraph_arbitrage.engine.kv_cache import FIRST_LENGTH, KVCache, common_prefix
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.sequence import Batch
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
LONG = {"endless": True, "max_position_embeddings": 4096}


def cache_of(schedulers: list[Scheduler]) -> KVCache:
    cache = schedulers[-1].runner.cache
    assert isinstance(cache, KVCache)
    return cache


@pytest.mark.parametrize("prompt_length", [FIRST_LENGTH - 26, 2 * FIRST_LENGTH - 24])
def test_a_sequence_that_outgrows_its_slot_continues_as_generate(
    prompt_length: int, engine: Make
) -> None:
    path = make("llama", **LONG)
    ids = random_ids(prompt_length)
    output = engine(path).submit(GenerateRequest(ids, max_tokens=60)).result()
    assert output.ids == generate(path, ids, 60)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma3_text", "gpt2"])
def test_sequences_of_all_lengths_run_in_one_forward_and_equal_generate(
    kind: str, fresh: Make, schedulers: list[Scheduler]
) -> None:
    path = make(kind, endless=True)
    engine = fresh(path)
    engine.submit(GenerateRequest([7], 1)).result()
    runner = schedulers[-1].runner
    forward, sizes = runner.forward, []

    def counted(batch: Batch) -> Tensor:
        sizes.append(len(batch.sequences))
        return forward(batch)

    runner.forward = counted  # type: ignore[method-assign]
    lengths = (3, 60, FIRST_LENGTH - 6, FIRST_LENGTH - 1, FIRST_LENGTH, FIRST_LENGTH + 1, 700)
    prompts = [random_ids(n, seed=n) for n in lengths]
    handles = [engine.submit(GenerateRequest(p, max_tokens=20)) for p in prompts]
    assert [h.result().ids for h in handles] == [generate(path, p, 20) for p in prompts]
    assert max(sizes) == len(lengths)


def test_prompts_are_computed_beside_decoding_sequences(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    """A long prompt does not block other sequences: its chunks share their forwards."""
    path = make("llama", **LONG)
    engine = fresh(path)
    engine.submit(GenerateRequest([7], 1)).result()
    runner = schedulers[-1].runner
    runner.tokens_per_forward = 64
    forward, counts = runner.forward, []

    def counted(batch: Batch) -> Tensor:
        counts.append(sorted(batch.counts))
        return forward(batch)

    runner.forward = counted  # type: ignore[method-assign]
    started, long = [], random_ids(500)

    def on_token(_: int) -> None:
        if not started:
            started.append(engine.submit(GenerateRequest(long, max_tokens=3)))

    short = engine.submit(GenerateRequest(random_ids(9), max_tokens=40), on_token).result()
    assert short.ids == generate(path, random_ids(9), 40)
    assert started[0].result().ids == generate(path, long, 3)
    mixed = [c for c in counts if len(c) == 2 and c[1] > 1]
    assert len(mixed) >= 7
    assert all(c[0] == 1 and sum(c) <= 65 for c in mixed)


def test_more_requests_than_slots_all_complete(fresh: Make, schedulers: list[Scheduler]) -> None:
    path = make("llama", endless=True)
    engine, most = fresh(path, max_slots=3), []

    def on_token(_: int) -> None:
        most.append(sum(slot.busy for slot in cache_of(schedulers).slots))

    prompts = [random_ids(4 + n, seed=n) for n in range(12)]
    handles = [
        engine.submit(GenerateRequest(p, max_tokens=5 + n), on_token) for n, p in enumerate(prompts)
    ]
    found = [h.result().ids for h in handles]
    assert found == [generate(path, p, 5 + n) for n, p in enumerate(prompts)]
    assert max(most) == 3


def test_the_least_recently_released_slot_is_overwritten_first() -> None:
    cache = KVCache(1, max_slots=8, context=None)
    slots = [cache.allocate(random_ids(30, seed=n), 1000) for n in range(8)]
    left = [*slots[1:], slots[0]]
    for slot in left:
        assert slot is not None
        slot.tokens[:] = random_ids(30)
        cache.release(slot)
    assert [cache.allocate(random_ids(30, seed=n), 1000) for n in range(20, 28)] == left


def test_reusing_a_slot_makes_it_the_most_recent() -> None:
    cache = KVCache(1, max_slots=2, context=None)
    sequences = [random_ids(40, seed=n) for n in range(3)]
    for ids in (*sequences[:2], [*sequences[0], 1], sequences[2]):
        slot = cache.allocate(ids, 1000)
        assert slot is not None
        slot.tokens[:] = ids
        cache.release(slot)
    assert [cache.cached([*s, 7]) for s in sequences] == [40, 0, 40]


def test_a_single_slot_serves_a_fork_of_its_contents() -> None:
    cache, long = KVCache(1, max_slots=1, context=None), random_ids(100)
    slot = cache.allocate(long, 1000)
    assert slot is not None
    slot.tokens[:] = long
    cache.release(slot)
    fork = cache.allocate([*long[:20], 7, 8], 1000)
    assert fork is slot
    assert fork.tokens == long[:20]


def test_a_busy_slot_is_not_assigned_again() -> None:
    cache = KVCache(1, max_slots=4, context=None)
    slots = [cache.allocate(random_ids(20, seed=n), 1000) for n in range(4)]
    assert len({slot.index for slot in slots if slot}) == 4
    assert cache.allocate([1, 2, 3], 1000) is None
    assert slots[2] is not None
    cache.release(slots[2])
    assert cache.allocate([1, 2, 3], 1000) is slots[2]


@pytest.mark.parametrize("context", [None, 64, 300, 1024, 5000])
def test_a_slot_has_room_for_its_tokens_and_a_spare_one(context: int | None) -> None:
    cache = KVCache(1, max_slots=4, context=context)
    for tokens in (1, 63, 64, 511, 512, 513, 1023, 1024, 4999, 5000):
        if context is None or tokens <= context:
            cache.reserve(tokens)
            assert cache.length >= tokens + 1
    assert context is None or cache.length <= context + 1


def test_slot_contents_survive_growth() -> None:
    cache = KVCache(2, max_slots=16, context=None)
    states = torch.randn(1, 2, 5, 4)

    class OneRow:
        def store(self, room: Tensor, new: Tensor) -> None:
            room[3, :5] = new[0].transpose(0, 1)

    cache.layout = OneRow()  # type: ignore[assignment]
    for n in range(4):
        cache.allocate([n], 1000)
    cache.slots[3].tokens[:] = [1, 2, 3, 4, 5]
    for layer in (0, 1):
        cache.update(states, 2 * states, layer)
    cache.reserve(3000)
    for n in range(10, 20):
        cache.allocate([n], 1000)
    for layer in cache.layers:
        assert layer.keys.shape[:2] == (16, 4096)
        assert torch.equal(layer.keys[3, :5], states[0].transpose(0, 1))
        assert torch.equal(layer.values[3, :5], 2 * states[0].transpose(0, 1))


def test_common_prefix_counts_leading_tokens() -> None:
    for n in (0, 1, 15, 16, 17, 40):
        a = random_ids(40)
        b = [*a[:n], -1, *a[n + 1 :]] if n < 40 else a
        assert common_prefix(a, b) == common_prefix(b, a) == n
        assert common_prefix(a, a[:n]) == n
        assert (common_prefix(a, b, at_least=20) > 20) is (n > 20)


def test_an_empty_pool_of_memory_is_not_committed_before_it_is_written() -> None:
    """A long slot costs address space until its positions are used."""
    cache = KVCache(1, max_slots=64, context=None)
    assert cache.new_tensor(torch.zeros(1, 2, 1, 4)).is_contiguous()
    zeroed = KVCache(1, max_slots=64, context=None, zeroed=True)
    assert not zeroed.new_tensor(torch.ones(1, 2, 1, 4)).any()


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [5, 1, 4, 2]], ids=["in order", "with a gap"])
def test_one_kernel_call_for_decoding_sequences_gives_the_same(
    slots: list[int], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    starts = [7, 11, 9, 8]
    query = torch.randn(1, 6, len(slots), 16)
    keys, values = torch.randn(2, 6, 32, 2, 16)
    options: dict[str, Any] = {"window": window, "scale": None, "softcap": None, "sinks": None}
    dense = PackedLayout(slots, starts, [1] * len(slots), length=32)
    assert dense._dense is not None
    found = dense.attend(query, keys, values, **options)
    monkeypatch.setattr("langgraph_arbitrage.engine.attention.MIN_DENSE", 99)
    single = PackedLayout(slots, starts, [1] * len(slots), length=32)
    assert single._dense is None
    assert torch.allclose(found, single.attend(query, keys, values, **options), atol=1e-6)


@pytest.mark.parametrize(
    ("starts", "counts"), [([900, 3, 4, 5], [1, 1, 1, 1]), ([5, 5, 5, 5], [1, 1, 1, 2])]
)
def test_very_different_lengths_and_prompts_get_a_call_each(
    starts: list[int], counts: list[int]
) -> None:
    assert PackedLayout([0, 1, 2, 3], starts, counts, length=1024)._dense is None
