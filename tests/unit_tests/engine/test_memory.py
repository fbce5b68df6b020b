"""Memory shortage: fewer sequences run at a time, and no request is lost."""

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from langgraph_arbitrage.engine import Engine, GenerateRequest
from langgraph_arbitrage.engine.kv_cache import FIRST_LENGTH, KVCache
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import EngineError, NotEnoughMemoryError
from langgraph_arbitrage.models import memory
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True, max_position_embeddings=4096)
NEW = 12


def prompts(n: int) -> list[list[int]]:
    return [random_ids(8 + k, seed=k) for k in range(n)]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make allocations fail beyond a number of slots or positions, as torch does on a CPU."""
    new_tensor = KVCache.new_tensor

    def refuse(slots: int = 1 << 30, length: int = 1 << 30, while_: Any = lambda: True) -> None:
        def failing(self: KVCache, like: Any) -> Any:
            if (self.capacity > slots or self.length > length) and while_():
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return new_tensor(self, like)

        monkeypatch.setattr(KVCache, "new_tensor", failing)

    return refuse


def test_without_memory_for_a_slot_fewer_sequences_run_and_a_warning_suggests_settings(
    fresh: Make,
    refusing: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    schedulers: list[Scheduler],
) -> None:
    engine = fresh(PATH)
    engine.submit(GenerateRequest([7], 1)).result()
    refusing(slots=8)
    busy_slots: list[int] = []
    cache: Any = schedulers[-1].runner.cache

    def on_token(_: int) -> None:
        busy_slots.append(sum(slot.busy for slot in cache.slots))

    with caplog.at_level(logging.WARNING):
        handles = [engine.submit(GenerateRequest(p, NEW), on_token) for p in prompts(20)]
        found = [h.result().ids for h in handles]
    assert found == [generate(PATH, p, NEW) for p in prompts(20)]
    assert max(busy_slots) == 8
    assert cache.max_slots == 64  # reset once all are free
    (warning,) = [r.getMessage() for r in caplog.records if "max_slots" in r.getMessage()]
    assert "8 sequences run concurrently" in warning
    assert "max_slots=8" in warning


def test_free_memory_is_checked_before_allocating(
    fresh: Make, monkeypatch: pytest.MonkeyPatch, schedulers: list[Scheduler]
) -> None:
    """Linux overcommits memory and kills the process later."""
    engine = fresh(PATH)
    engine.submit(GenerateRequest([7], 1)).result()
    cache: Any = schedulers[-1].runner.cache
    slot_bytes = cache.token_bytes * FIRST_LENGTH

    monkeypatch.setattr(memory, "free_bytes", lambda device: int(5.5 * slot_bytes))
    busy_slots: list[int] = []

    def on_token(_: int) -> None:
        busy_slots.append(sum(slot.busy for slot in cache.slots))

    handles = [engine.submit(GenerateRequest(p, NEW), on_token) for p in prompts(12)]
    assert [h.result().ids for h in handles] == [generate(PATH, p, NEW) for p in prompts(12)]
    assert 1 < max(busy_slots) <= 6  # includes slots without any content yet


def test_a_sequence_that_cannot_grow_waits_for_others_to_finish(
    fresh: Make, refusing: Callable[..., None]
) -> None:
    engine = fresh(PATH, max_slots=7)
    engine.submit(GenerateRequest([7], 1)).result()
    long, running = random_ids(FIRST_LENGTH - 26), []
    refusing(length=FIRST_LENGTH, while_=lambda: len(running) < 100)
    other = engine.submit(GenerateRequest(random_ids(9), 110), running.append)
    output = engine.submit(GenerateRequest(long, 60)).result()
    assert output.ids == generate(PATH, long, 60)
    assert other.result().ids == generate(PATH, random_ids(9), 110)


def test_a_sequence_without_memory_fails_alone(fresh: Make, refusing: Callable[..., None]) -> None:
    engine = fresh(PATH, max_slots=6)
    engine.submit(GenerateRequest([7], 1)).result()
    refusing(length=FIRST_LENGTH)
    with pytest.raises(NotEnoughMemoryError, match=r"llama.* 700 tokens.*max_tokens"):
        engine.submit(GenerateRequest(random_ids(700), 3)).result()
    ids = random_ids(9)
    assert engine.submit(GenerateRequest(ids, 3)).result().ids == generate(PATH, ids, 3)


def test_a_forward_that_runs_out_of_memory_is_reported_and_the_model_is_reloaded(
    fresh: Make, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    from transformers import LlamaForCausalLM

    engine = fresh(PATH, max_slots=4)
    engine.submit(GenerateRequest([7], 1)).result()
    forward = LlamaForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    with pytest.raises(EngineError, match=r"llama.*Tried to allocate 2 GiB\. Lower max_slots"):
        engine.submit(GenerateRequest([8], 3)).result()
    assert engine.submit(GenerateRequest([8], 3)).result().ids == generate(PATH, [8], 3)
    assert loads == [PATH] * 2


LOW_MEMORY_PROGRAM = """
import resource, sys
import psutil
from langgraph_arbitrage.engine import Engine, ModelSpec, GenerateRequest
path, prompts = sys.argv[1], [[n + 10] * 300 for n in range(40)]
engine = Engine(ModelSpec(path))
alone = [engine.submit(GenerateRequest(p, 10)).result().ids for p in prompts[:4]]
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, -1))
together = [h.result().ids for h in [engine.submit(GenerateRequest(p, 10)) for p in prompts]]
assert together[:4] == alone and all(map(len, together))
print("all served")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="uses a memory limit of Linux")
def test_all_requests_are_served_under_a_real_memory_limit() -> None:
    path = make("llama", endless=True, max_position_embeddings=8192, hidden_size=256)
    done = subprocess.run(
        [sys.executable, "-c", LOW_MEMORY_PROGRAM, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all served\n", done.stderr
    assert "max_slots=" in done.stderr
