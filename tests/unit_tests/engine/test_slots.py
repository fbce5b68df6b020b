"""Slots: they grow, they are shared out, and nobody waits for ever."""

from collections.abc import Callable

import pytest
from torch import Tensor

from langgraph_arbitrage.engine import Engine, Write
from langgraph_arbitrage.engine.row import Batch
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.slots import JOINED, Arena, SlotTable, common_prefix
from tiny import generate, make, random_ids

FIRST, SECOND = JOINED.first, JOINED.first * JOINED.factor  # tokens in a slot of an arena

Make = Callable[..., Engine]


@pytest.mark.parametrize(("prompt_length", "new"), [(FIRST - 26, 60), (SECOND - 24, 40)])
def test_a_row_that_outgrows_its_slot_goes_on_as_generate(
    prompt_length: int, new: int, engine: Make
) -> None:
    path = make("llama", endless=True, max_position_embeddings=4096)
    ids = random_ids(prompt_length)
    written = engine(path).submit(Write(ids, max_tokens=new)).result()
    assert written.ids == generate(path, ids, new)
    assert len(written.ids) == new


def test_rows_of_all_lengths_together_equal_generate(engine: Make) -> None:
    path = make("llama", endless=True, max_position_embeddings=4096)
    short, long = FIRST, SECOND
    lengths = (3, 60, short - 6, short - 1, short, short + 1, long - 14, long, long + 76, 8 * long)
    prompts = [random_ids(n, seed=n) for n in lengths]
    tickets = [engine(path).submit(Write(p, max_tokens=20)) for p in prompts]
    assert [t.result().ids for t in tickets] == [generate(path, p, 20) for p in prompts]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma3_text"])
def test_rows_of_several_arenas_run_in_one_forward(
    kind: str, fresh: Make, schedulers: list[Scheduler]
) -> None:
    path = make(kind, endless=True)
    engine, prompts = fresh(path), [random_ids(n, seed=n) for n in (5, SECOND - 100, SECOND - 90)]
    engine.submit(Write([7], 1)).result()
    backend = schedulers[-1].backend
    assert isinstance(backend, SlotBackend)
    forward, lengths = backend.forward, []

    def counted(batch: Batch) -> Tensor:
        if batch.width == 1:
            lengths.append(sorted(row.slot.length for row in batch.rows))
        return forward(batch)

    backend.forward = counted  # type: ignore[method-assign]
    tickets = [engine.submit(Write(p, max_tokens=40)) for p in prompts]
    assert [t.result().ids for t in tickets] == [generate(path, p, 40) for p in prompts]
    assert [FIRST, SECOND, SECOND] in lengths


def test_where_attention_cannot_be_joined_each_arena_runs_by_itself(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    path = make("llama", endless=True)
    engine = fresh(path, model_kwargs={"attn_implementation": "eager"})
    engine.submit(Write([7], 1)).result()
    backend = schedulers[-1].backend
    assert isinstance(backend, SlotBackend)
    assert not backend.joined
    prompts = [random_ids(n, seed=n) for n in (5, 470, 480)]
    tickets = [engine.submit(Write(p, max_tokens=40)) for p in prompts]
    assert [t.result().ids for t in tickets] == [generate(path, p, 40) for p in prompts]
    assert [arena.length for arena in backend.table.arenas] == [512, 1025]


def test_one_long_row_does_not_make_every_slot_long(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(make("llama", endless=True, max_position_embeddings=4096))
    engine.submit(Write(random_ids(1500), max_tokens=1)).result()
    tickets = [engine.submit(Write(random_ids(20, seed=n), max_tokens=1)) for n in range(8)]
    [t.result() for t in tickets]
    arenas = schedulers[-1].backend.table.arenas
    assert sum(len(slots) for arena, slots in arenas.items() if arena.length > FIRST) == 1


def test_more_requests_than_slots_all_complete(fresh: Make, schedulers: list[Scheduler]) -> None:
    path = make("llama", endless=True)
    engine, most = fresh(path, max_slots=3), []

    def on_token(_: int) -> None:
        most.append(len(schedulers[-1].backend.table.busy()))

    prompts = [random_ids(4 + n, seed=n) for n in range(12)]
    tickets = [engine.submit(Write(p, max_tokens=5 + n), on_token) for n, p in enumerate(prompts)]
    found = [t.result().ids for t in tickets]
    assert found == [generate(path, p, 5 + n) for n, p in enumerate(prompts)]
    assert max(most) == 3


def test_the_least_recently_used_slot_is_overwritten() -> None:
    table = SlotTable(max_slots=2, context=None)
    sequences = [random_ids(40, seed=n) for n in range(3)]
    for ids in sequences[:2]:
        claim = table.claim(ids, 50)
        claim.slot.ids = list(ids)
        table.release(claim.slot)
    claim = table.claim([*sequences[0], 1], 50)  # used again: now the second is the oldest
    table.release(claim.slot)
    claim = table.claim(sequences[2], 50)
    claim.slot.ids = list(sequences[2])
    assert [table.overlap(s) for s in sequences] == [40, 0, 40]


def test_the_slot_that_was_left_first_is_overwritten_first() -> None:
    """One in which an answer goes on for long is not older for that."""
    table = SlotTable(max_slots=8, context=None)
    claims = [table.claim(random_ids(30, seed=n), 50) for n in range(8)]
    left = [claim.slot for claim in (*claims[1:], claims[0])]
    for slot in left:
        slot.ids = random_ids(30)
        table.release(slot)
    assert [table.claim(random_ids(30, seed=n), 50).slot for n in range(20, 28)] == left


def test_no_slot_is_given_twice() -> None:
    table = SlotTable(max_slots=4, context=None)
    claims = [table.claim(random_ids(20, seed=n), 30) for n in range(4)]
    assert len({(c.slot.length, c.slot.index) for c in claims}) == 4
    assert table.claim([1, 2, 3], 10) is None
    table.release(claims[2].slot)
    assert table.claim([1, 2, 3], 10).slot is claims[2].slot


@pytest.mark.parametrize("context", [None, 64, 300, 1024, 5000])
def test_a_slot_has_room_for_its_tokens_and_one_more(context: int | None) -> None:
    table = SlotTable(max_slots=4, context=context)
    for tokens in (1, 63, 64, 511, 512, 513, 1023, 1024, 4999, 5000):
        if context is None or tokens <= context:
            assert table.arena_length(tokens) >= tokens + 1


def test_common_prefix_counts_leading_tokens() -> None:
    for n in (0, 1, 15, 16, 17, 40):
        a = random_ids(40)
        b = [*a[:n], -1, *a[n + 1 :]] if n < 40 else a
        assert common_prefix(a, b) == common_prefix(b, a) == n
        assert common_prefix(a, a[:n]) == n


def test_a_follow_up_stays_in_its_slot_until_it_outgrows_it(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    """Moving costs a copy; being read a little further than its end costs less."""
    path = make("llama", endless=True, max_position_embeddings=4096)
    prompt = random_ids(FIRST - 106)
    engine, ids = fresh(path), prompt
    for _ in range(8):
        ids = ids + engine.submit(Write(ids, max_tokens=12)).result().ids
    assert list(schedulers[-1].backend.table.arenas) == [Arena(FIRST)]
    assert ids[len(prompt) :] == generate(path, prompt, 96)


def test_a_short_request_does_not_run_where_a_long_one_ran(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    path = make("llama", endless=True, max_position_embeddings=4096)
    engine, ids = fresh(path), random_ids(FIRST + 50)
    engine.submit(Write(ids, max_tokens=1)).result()
    lengths = set()

    def on_token(_: int) -> None:
        lengths.update(slot.length for slot in schedulers[-1].backend.table.busy())

    beginning = ids[: FIRST - 100]
    written = engine.submit(Write(beginning, max_tokens=5), on_token).result()
    assert lengths == {FIRST}
    assert written.cached == len(beginning) - 1
    assert written.ids == generate(path, beginning, 5)


def test_rows_that_run_together_move_together(fresh: Make, schedulers: list[Scheduler]) -> None:
    path = make("llama", endless=True)
    engine = fresh(path)
    prompts = [random_ids(30, seed=n) for n in range(8)]
    first = [engine.submit(Write(p, max_tokens=4)) for p in prompts]
    written = [t.result().ids for t in first]
    # Two of them go on, from both ends of the arena.
    ends = [[*prompts[n], *written[n]] for n in (0, 7)]
    ranges = []

    def on_token(_: int) -> None:
        indices = [slot.index for slot in schedulers[-1].backend.table.busy()]
        ranges.append(max(indices) - min(indices) + 1)

    tickets = [engine.submit(Write(ids, max_tokens=40), on_token) for ids in ends]
    assert [t.result().ids for t in tickets] == [generate(path, ids, 40) for ids in ends]
    assert ranges[0] == 8
    assert 2 in ranges
    # What the others left behind was moved, not lost.
    for prompt, ids in zip(prompts[1:7], written[1:7], strict=True):
        again = engine.submit(Write([*prompt, *ids], max_tokens=3)).result()
        assert again.cached >= len(prompt)
        assert again.ids == generate(path, [*prompt, *ids], 3)
