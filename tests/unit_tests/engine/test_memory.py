"""Memory: where there is none for another slot, fewer rows run, and nobody is lost."""

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from langgraph_arbitrage.engine import Engine, Write, memory, slot_cache
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slots import JOINED
from langgraph_arbitrage.errors import EngineError, NotEnoughMemoryError
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True, max_position_embeddings=4096)
A_SLOT = 3 * 2 * 2 * 16 * 4  # bytes a token: layers, keys and values, heads, their width, float32
NEW = 12


def prompts(n: int) -> list[list[int]]:
    return [random_ids(8 + k, seed=k) for k in range(n)]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, schedulers: list[Scheduler]) -> Callable[[int], None]:
    """Sets how many bytes of slots fit the device, as its free memory tells it."""

    def limit(most: int) -> None:
        def free(device: torch.device) -> int:
            backend = schedulers[-1].backend if schedulers else None
            held = backend.cache.bytes() if hasattr(backend, "cache") else 0
            return most - held

        monkeypatch.setattr(memory, "free_bytes", free)

    return limit


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the allocator fail for slots beyond so many, as torch does on a CPU."""
    room = slot_cache._room

    def refuse(most: int) -> None:
        def failing(slots: int, length: int, like: Any) -> Any:
            if slots > most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return room(slots, length, like)

        monkeypatch.setattr(slot_cache, "_room", failing)

    return refuse


def test_where_no_slot_fits_fewer_rows_run_and_a_warning_says_what_to_set(
    fresh: Make,
    refusing: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    schedulers: list[Scheduler],
) -> None:
    engine = fresh(PATH)
    engine.submit(Write([7], 1)).result()
    refusing(8)
    most: list[int] = []

    def on_token(_: int) -> None:
        most.append(len(backend.table.busy()))

    backend = schedulers[-1].backend
    with caplog.at_level(logging.WARNING):
        tickets = [engine.submit(Write(p, NEW), on_token) for p in prompts(20)]
        found = [ticket.result().ids for ticket in tickets]
    assert found == [generate(PATH, p, NEW) for p in prompts(20)]
    assert max(most) == 8
    assert backend.max_rows == 8
    (told,) = [r.getMessage() for r in caplog.records if "max_slots" in r.getMessage()]
    assert "now works on 8 at a time" in told
    assert "Set max_slots=8" in told


def test_free_memory_is_asked_before_it_is_taken(
    fresh: Make, limited: Callable[[int], None], schedulers: list[Scheduler]
) -> None:
    """A CPU hands out memory that it does not have, and ends the process later."""
    engine = fresh(PATH)
    engine.submit(Write([7], 1)).result()
    limited(int(5.5 * A_SLOT * JOINED.first * 1.5))
    found = [t.result().ids for t in [engine.submit(Write(p, NEW)) for p in prompts(12)]]
    assert found == [generate(PATH, p, NEW) for p in prompts(12)]
    assert schedulers[-1].backend.cache.bytes() <= 5.5 * A_SLOT * JOINED.first * 1.5
    assert 1 < schedulers[-1].backend.max_rows < 12


def test_a_row_that_cannot_move_to_a_longer_slot_waits_for_the_others(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH, max_slots=7)
    engine.submit(Write([7], 1)).result()
    room, long = slot_cache._room, random_ids(JOINED.first - 26)
    running: list[int] = []

    def failing(slots: int, length: int, like: Any) -> Any:
        if length > JOINED.first and len(running) < 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return room(slots, length, like)

    monkeypatch.setattr(slot_cache, "_room", failing)
    other = engine.submit(Write(random_ids(9), 110), running.append)
    written = engine.submit(Write(long, 60)).result()
    assert written.ids == generate(PATH, long, 60)
    assert other.result().ids == generate(PATH, random_ids(9), 110)


def test_memory_of_slots_that_nobody_is_in_is_given_to_those_who_need_it(
    fresh: Make, schedulers: list[Scheduler], limited: Callable[[int], None]
) -> None:
    engine = fresh(PATH, max_slots=5)
    engine.submit(Write(random_ids(600), 1)).result()  # leaves a long slot behind
    cache = schedulers[-1].backend.cache
    limited(cache.bytes() + 3 * A_SLOT * JOINED.first)  # for three more short ones
    found = [t.result().ids for t in [engine.submit(Write(p, NEW)) for p in prompts(5)]]
    assert found == [generate(PATH, p, NEW) for p in prompts(5)]
    assert schedulers[-1].backend.max_rows == 5


def test_one_row_for_which_there_is_no_memory_at_all_fails_alone(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH, max_slots=6)
    engine.submit(Write([7], 1)).result()
    room = slot_cache._room

    def failing(slots: int, length: int, like: Any) -> Any:
        if length > JOINED.first:
            raise MemoryError
        return room(slots, length, like)

    monkeypatch.setattr(slot_cache, "_room", failing)
    with pytest.raises(
        NotEnoughMemoryError, match=r"no memory for a sequence of 1024 .*max_tokens"
    ):
        engine.submit(Write(random_ids(700), 3)).result()
    ids = random_ids(9)
    assert engine.submit(Write(ids, 3)).result().ids == generate(PATH, ids, 3)


def test_a_model_that_runs_out_of_memory_itself_is_told_and_started_afresh(
    fresh: Make, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    from transformers import LlamaForCausalLM

    engine = fresh(PATH, max_slots=4)
    engine.submit(Write([7], 1)).result()
    forward = LlamaForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    with pytest.raises(EngineError, match=r"llama.*Tried to allocate 2 GiB\. Lower max_slots"):
        engine.submit(Write([8], 3)).result()
    assert engine.submit(Write([8], 3)).result().ids == generate(PATH, [8], 3)
    assert loads == [PATH] * 2


RUNS_SHORT = """
import resource, sys
import psutil
from langgraph_arbitrage.engine import Engine, ModelSpec, Write
path, prompts = sys.argv[1], [[n + 10] * 300 for n in range(40)]
engine = Engine(ModelSpec(path))
alone = [engine.submit(Write(p, 10)).result().ids for p in prompts[:4]]
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, -1))
together = [t.result().ids for t in [engine.submit(Write(p, 10)) for p in prompts]]
assert together[:4] == alone and all(map(len, together))
print("all answered")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_a_process_that_really_runs_out_of_memory_answers_all() -> None:
    path = make("llama", endless=True, max_position_embeddings=8192, hidden_size=256)
    done = subprocess.run(
        [sys.executable, "-c", RUNS_SHORT, path], capture_output=True, text=True, check=False
    )
    assert done.stdout == "all answered\n", done.stderr
    assert "Set max_slots=" in done.stderr


def test_an_arena_grows_by_little(fresh: Make, schedulers: list[Scheduler]) -> None:
    engine, many = fresh(PATH), 33
    tickets = [engine.submit(Write(p, NEW)) for p in prompts(many)]
    [t.result() for t in tickets]
    (arena,) = schedulers[-1].backend.table.arenas
    assert many <= schedulers[-1].backend.cache.capacity(arena) <= 1.25 * many
