"""Cancellation, failures, closing and sharing: each request ends, without affecting others."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from langgraph_arbitrage.engine import (
    Engine,
    GenerateRequest,
    ModelSpec,
    RequestHandle,
    ScoreRequest,
    acquire,
    release,
)
from langgraph_arbitrage.engine import engine as engine_module
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import (
    CheckpointError,
    EngineClosedError,
    EngineError,
    RequestCancelledError,
)
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
LONG = 800


# --- cancellation ------------------------------------------------------------------------


def cancel_after(
    n: int, engine: Engine, request: GenerateRequest
) -> tuple[RequestHandle[Any], list[int]]:
    """Submit a request that is cancelled on the worker's thread at its n-th token."""
    tokens: list[int] = []
    ready = threading.Event()

    def on_token(token: int) -> None:
        ready.wait()
        tokens.append(token)
        if len(tokens) == n:
            handle.cancel()

    handle = engine.submit(request, on_token)
    ready.set()
    return handle, tokens


def test_a_cancelled_request_generates_no_further_token(fresh: Make) -> None:
    handle, tokens = cancel_after(3, fresh(PATH), GenerateRequest(random_ids(9), LONG))
    with pytest.raises(RequestCancelledError):
        handle.result()
    assert len(tokens) == 3


def test_cancelling_frees_the_slot_and_does_not_affect_other_requests(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    ids = random_ids(12, seed=1)
    busy: list[int] = []
    cancelled, _ = cancel_after(5, engine, GenerateRequest(random_ids(9), LONG))

    def on_token(_: int) -> None:
        if cancelled.cancelled:
            busy.append(sum(slot.busy for slot in schedulers[-1].runner.cache.slots))

    other = engine.submit(GenerateRequest(ids, 40), on_token).result()
    with pytest.raises(RequestCancelledError):
        cancelled.result()
    assert other.ids == generate(PATH, ids, 40)
    assert busy[-1] == 1
    assert busy[2:] == [1] * len(busy[2:])  # from the token after the cancelled one's last


def test_a_cancelled_request_leaves_the_queue(fresh: Make) -> None:
    engine, seen = fresh(PATH, max_slots=1), []
    waiting: list[RequestHandle[Any]] = []

    def on_token(_: int) -> None:
        match len(seen):
            case 0:
                waiting.append(engine.submit(GenerateRequest(random_ids(5), 5)))
            case 3:
                waiting[0].cancel()
        seen.append(waiting[0].future.done())

    engine.submit(GenerateRequest(random_ids(9), 10), on_token).result()
    assert not seen[3]
    assert seen[5]  # while the first still runs
    with pytest.raises(RequestCancelledError):
        waiting[0].result()


def test_a_timeout_of_the_caller_cancels_the_request(fresh: Make) -> None:
    handle = fresh(PATH).submit(GenerateRequest(random_ids(9), LONG))
    with pytest.raises(TimeoutError):
        handle.result(timeout=0)
    with pytest.raises(RequestCancelledError):
        handle.future.result()


def test_cancelling_a_finished_request_has_no_effect(fresh: Make) -> None:
    handle = fresh(PATH).submit(GenerateRequest(random_ids(9), 3))
    output = handle.result()
    handle.cancel()
    assert handle.result() is output


# --- failure -----------------------------------------------------------------------------


class DeviceError(RuntimeError):
    pass


def test_a_failure_fails_all_pending_requests_and_the_next_one_is_served(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH, max_slots=2)
    engine.submit(GenerateRequest([7], 1)).result()
    forward = LlamaForCausalLM.forward
    inside, may_fail = threading.Event(), threading.Event()

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        inside.set()
        may_fail.wait()
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise DeviceError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    handles = [engine.submit(GenerateRequest(random_ids(5 + n), 5)) for n in range(2)]
    assert inside.wait(60)
    # No slot is free for these.
    handles += [engine.submit(GenerateRequest(random_ids(9 + n), 5)) for n in range(3)]
    may_fail.set()
    for handle in handles:
        name = Path(PATH).name
        with pytest.raises(EngineError, match=f"{name}.*DeviceError.*the device is gone") as e:
            handle.result()
        assert isinstance(e.value.__cause__, DeviceError)
    again = engine.submit(GenerateRequest(random_ids(30), 5)).result()
    assert again.ids == generate(PATH, random_ids(30), 5)


def test_a_thread_that_exits_reports_it_and_is_replaced(fresh: Make) -> None:
    """`SystemExit` is not an `Exception`."""

    def on_token(_: int) -> None:
        raise SystemExit("exit() was called")

    engine = fresh(PATH)
    with pytest.raises(EngineError, match=r"SystemExit: exit\(\) was called"):
        engine.submit(GenerateRequest(random_ids(5), 5), on_token).result(60)
    ids = random_ids(9)
    assert engine.submit(GenerateRequest(ids, 5)).result(60).ids == generate(PATH, ids, 5)


def test_a_request_submitted_from_the_failed_requests_callback_is_served(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callback runs on the thread that is about to end."""
    engine, ids = fresh(PATH), random_ids(9)
    engine.submit(GenerateRequest([7], 1)).result()
    forward, again = LlamaForCausalLM.forward, []

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise DeviceError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    handle = engine.submit(GenerateRequest(ids, 5), lambda _: None)
    handle.future.add_done_callback(lambda _: again.append(engine.submit(GenerateRequest(ids, 5))))
    with pytest.raises(EngineError, match="the device is gone"):
        handle.result(60)
    assert again[0].result(60).ids == generate(PATH, ids, 5)


def test_a_stored_error_does_not_keep_the_model_alive(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH)
    engine.submit(GenerateRequest([7], 1)).result()
    model = weakref.ref(engine._started.model)
    forward = LlamaForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise DeviceError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    with pytest.raises(EngineError) as stored:
        engine.submit(GenerateRequest([8], 1)).result()
    engine._started._thread and engine._started._thread.join(60)
    gc.collect()
    assert stored.value.__cause__ is not None
    assert model() is None


def test_a_failing_listener_fails_its_request(fresh: Make) -> None:
    def on_token(_: int) -> None:
        raise DeviceError("the listener fails")

    with pytest.raises(EngineError, match="the listener fails"):
        fresh(PATH).submit(GenerateRequest(random_ids(5), 5), on_token).result()


def test_an_invalid_request_fails_alone(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Scheduler._sequence

    def failing(self: Scheduler, handle: Any) -> Any:
        if len(handle.request.ids) == 6:
            raise LookupError("no such pattern")
        return create(self, handle)

    monkeypatch.setattr(Scheduler, "_sequence", failing)
    engine = fresh(PATH)
    handles = [engine.submit(GenerateRequest(random_ids(n), 5)) for n in (5, 6, 7)]
    with pytest.raises(LookupError, match="no such pattern"):
        handles[1].future.result(20)
    for n in (5, 7):
        assert handles[n - 5].result().ids == generate(PATH, random_ids(n), 5)


def test_a_failed_load_is_reported_and_retried(fresh: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(PATH, folder)
    engine = fresh(str(folder))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model cannot be loaded as causal-lm"):
        engine.submit(GenerateRequest([7], 1)).result()
    (folder / "model.safetensors").write_bytes(weights)
    assert engine.submit(GenerateRequest(random_ids(9), 5)).result().ids == generate(
        PATH, random_ids(9), 5
    )


# --- closing and sharing -----------------------------------------------------------------


def test_closing_fails_running_and_waiting_requests(fresh: Make) -> None:
    engine = fresh(PATH, max_slots=1)
    started = threading.Event()
    handles = [engine.submit(GenerateRequest(random_ids(9), LONG), lambda _: started.set())]
    handles += [engine.submit(GenerateRequest(random_ids(5 + n), 5)) for n in range(2)]
    assert started.wait(60)
    engine.close()
    for handle in handles:
        with pytest.raises(EngineClosedError, match=f"{Path(PATH).name} was closed"):
            handle.result(timeout=0)
    with pytest.raises(EngineClosedError):
        engine.submit(GenerateRequest([7], 1))


def test_closing_stops_the_thread() -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == f"arbitrage-{name}"]

    path = make("llama", seed=77, endless=True)
    name = Path(path).name
    engine = Engine(ModelSpec(path))
    engine.submit(GenerateRequest([7], 1)).result()
    assert len(threads()) == 1
    engine.close()
    assert not threads()
    engine.close()  # closing again has no effect


def test_closing_an_unused_engine_does_not_load_the_model(loads: list[str]) -> None:
    engine = Engine(ModelSpec(PATH))
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.submit(GenerateRequest([7], 1)).result()
    assert not loads


def test_users_of_a_spec_share_one_model_until_the_last_release(loads: list[str]) -> None:
    spec = ModelSpec(PATH, max_slots=6)  # not used by other tests
    first, second = acquire(spec), acquire(spec)
    other = acquire(ModelSpec(PATH, max_slots=5))
    assert first is second is not other
    for engine in (first, second):
        engine.submit(GenerateRequest([7], 1)).result()
    assert loads == [PATH]
    release(first)
    assert second.submit(GenerateRequest([7], 1)).result().ids
    release(second)
    release(second)  # an extra release has no effect
    with pytest.raises(EngineClosedError):
        second.submit(GenerateRequest([7], 1))
    release(other)
    after = acquire(spec)
    assert after is not first
    assert after.submit(GenerateRequest([7], 1)).result().ids
    release(after)


def test_first_requests_from_many_threads_load_one_model(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end_ids = engine_module.end_ids

    def slow(*args: Any) -> frozenset[int]:
        time.sleep(0.05)  # so that all threads arrive while the first one prepares
        return end_ids(*args)

    monkeypatch.setattr(engine_module, "end_ids", slow)
    engine, ids = Engine(ModelSpec(PATH, max_slots=6)), random_ids(9)
    barrier = threading.Barrier(8)

    def call(_: int) -> list[int]:
        barrier.wait()
        return engine.submit(GenerateRequest(ids, 3)).result().ids

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(call, range(8)))
    engine.close()
    assert outputs == [generate(PATH, ids, 3)] * 8
    assert loads == [PATH]


def test_models_are_loaded_one_after_another(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading with `transformers` changes global state and is not thread-safe."""
    load, inside, counts = AutoModelForCausalLM.from_pretrained, [], []

    def watched(*args: Any, **kwargs: Any) -> Any:
        inside.append(args)
        time.sleep(0.02)
        counts.append(len(inside))
        model = load(*args, **kwargs)
        inside.remove(args)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    engines = [fresh(PATH, max_slots=50 + n) for n in range(3)]
    for handle in [engine.submit(GenerateRequest([7], 1)) for engine in engines]:
        handle.result()
    assert counts == [1, 1, 1]


def test_requests_from_many_threads_get_their_own_outputs(fresh: Make) -> None:
    engine = fresh(PATH)
    prompts = [random_ids(3 + n, seed=n) for n in range(24)]

    def call(ids: list[int]) -> list[int]:
        if len(ids) % 3 == 0:
            engine.submit(ScoreRequest(ids)).result()
        return engine.submit(GenerateRequest(ids, 8)).result().ids

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(call, prompts)) == [generate(PATH, p, 8) for p in prompts]
