"""Cancellation, failure, closing, sharing: nobody waits for ever, nobody else is harmed."""

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
    """Submit a request that is cancelled from the worker's own thread at its n-th token."""
    tokens: list[int] = []
    ready = threading.Event()

    def on_token(token: int) -> None:
        ready.wait()
        tokens.append(token)
        if len(tokens) == n:
            ticket.cancel()

    ticket = engine.submit(request, on_token)
    ready.set()
    return ticket, tokens


def test_a_cancelled_row_writes_no_further_token(fresh: Make) -> None:
    ticket, tokens = cancel_after(3, fresh(PATH), GenerateRequest(random_ids(9), LONG))
    with pytest.raises(RequestCancelledError):
        ticket.result()
    assert len(tokens) == 3


def test_cancelling_frees_the_slot_and_leaves_the_others_alone(
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


def test_giving_up_waiting_cancels_the_request(fresh: Make) -> None:
    ticket = fresh(PATH).submit(GenerateRequest(random_ids(9), LONG))
    with pytest.raises(TimeoutError):
        ticket.result(timeout=0)
    with pytest.raises(RequestCancelledError):
        ticket.future.result()


def test_cancelling_an_answered_request_changes_nothing(fresh: Make) -> None:
    ticket = fresh(PATH).submit(GenerateRequest(random_ids(9), 3))
    answer = ticket.result()
    ticket.cancel()
    assert ticket.result() is answer


# --- failure -----------------------------------------------------------------------------


class OutOfLuckError(RuntimeError):
    pass


def test_a_failing_model_fails_every_waiting_call_and_serves_the_next(
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
        raise OutOfLuckError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    tickets = [engine.submit(GenerateRequest(random_ids(5 + n), 5)) for n in range(2)]
    assert inside.wait(60)
    tickets += [
        engine.submit(GenerateRequest(random_ids(9 + n), 5)) for n in range(3)
    ]  # no slot for these
    may_fail.set()
    for ticket in tickets:
        name = Path(PATH).name
        with pytest.raises(EngineError, match=f"{name}.*OutOfLuckError.*the device is gone") as e:
            ticket.result()
        assert isinstance(e.value.__cause__, OutOfLuckError)
    again = engine.submit(GenerateRequest(random_ids(30), 5)).result()
    assert again.ids == generate(PATH, random_ids(30), 5)


def test_a_thread_that_is_ended_from_inside_is_told_and_followed_by_another(fresh: Make) -> None:
    """Not an `Exception`, so that nothing else catches it."""

    def on_token(_: int) -> None:
        raise SystemExit("somebody calls exit()")

    engine = fresh(PATH)
    with pytest.raises(EngineError, match="SystemExit: somebody calls exit"):
        engine.submit(GenerateRequest(random_ids(5), 5), on_token).result(60)
    ids = random_ids(9)
    assert engine.submit(GenerateRequest(ids, 5)).result(60).ids == generate(PATH, ids, 5)


def test_one_who_asks_again_as_soon_as_the_model_failed_is_answered(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the failed future's own callback, which runs on the thread that is about to end."""
    engine, ids = fresh(PATH), random_ids(9)
    engine.submit(GenerateRequest([7], 1)).result()
    forward, again = LlamaForCausalLM.forward, []

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise OutOfLuckError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    ticket = engine.submit(GenerateRequest(ids, 5), lambda _: None)
    ticket.future.add_done_callback(lambda _: again.append(engine.submit(GenerateRequest(ids, 5))))
    with pytest.raises(EngineError, match="the device is gone"):
        ticket.result(60)
    assert again[0].result(60).ids == generate(PATH, ids, 5)


def test_an_error_that_is_kept_does_not_keep_the_model(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH)
    engine.submit(GenerateRequest([7], 1)).result()
    model = weakref.ref(engine._started.model)
    forward = LlamaForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        raise OutOfLuckError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    with pytest.raises(EngineError) as kept:
        engine.submit(GenerateRequest([8], 1)).result()
    engine._started._thread and engine._started._thread.join(60)
    gc.collect()
    assert kept.value.__cause__ is not None
    assert model() is None


def test_a_failing_listener_does_not_hang_its_caller(fresh: Make) -> None:
    def on_token(_: int) -> None:
        raise OutOfLuckError("nobody listens")

    with pytest.raises(EngineError, match="nobody listens"):
        fresh(PATH).submit(GenerateRequest(random_ids(5), 5), on_token).result()


def test_a_request_that_cannot_be_begun_fails_alone(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Scheduler._sequence

    def failing(self: Scheduler, ticket: Any) -> Any:
        if len(ticket.request.ids) == 6:
            raise LookupError("no such pattern")
        return begin(self, ticket)

    monkeypatch.setattr(Scheduler, "_sequence", failing)
    engine = fresh(PATH)
    tickets = [engine.submit(GenerateRequest(random_ids(n), 5)) for n in (5, 6, 7)]
    with pytest.raises(LookupError, match="no such pattern"):
        tickets[1].future.result(20)
    for n in (5, 7):
        assert tickets[n - 5].result().ids == generate(PATH, random_ids(n), 5)


def test_a_load_that_fails_is_told_and_tried_again(fresh: Make, tmp_path: Path) -> None:
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


def test_closing_ends_running_and_waiting_calls(fresh: Make) -> None:
    engine = fresh(PATH, max_slots=1)
    started = threading.Event()
    tickets = [engine.submit(GenerateRequest(random_ids(9), LONG), lambda _: started.set())]
    tickets += [engine.submit(GenerateRequest(random_ids(5 + n), 5)) for n in range(2)]
    assert started.wait(60)
    engine.close()
    for ticket in tickets:
        with pytest.raises(EngineClosedError, match=f"{Path(PATH).name} was closed"):
            ticket.result(timeout=0)
    with pytest.raises(EngineClosedError):
        engine.submit(GenerateRequest([7], 1))


def test_closing_ends_the_thread_and_drops_the_model() -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == f"arbitrage-{name}"]

    path = make("llama", seed=77, endless=True)
    name = Path(path).name
    engine = Engine(ModelSpec(path))
    engine.submit(GenerateRequest([7], 1)).result()
    assert len(threads()) == 1
    engine.close()
    assert not threads()
    engine.close()  # twice is once


def test_closing_an_engine_that_never_ran_loads_nothing(loads: list[str]) -> None:
    engine = Engine(ModelSpec(PATH))
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.submit(GenerateRequest([7], 1)).result()
    assert not loads


def test_the_same_spec_shares_one_model_until_its_last_user_leaves(loads: list[str]) -> None:
    spec = ModelSpec(PATH, max_slots=6)  # which no other test holds
    first, second = acquire(spec), acquire(spec)
    other = acquire(ModelSpec(PATH, max_slots=5))
    assert first is second is not other
    for engine in (first, second):
        engine.submit(GenerateRequest([7], 1)).result()
    assert loads == [PATH]
    release(first)
    assert second.submit(GenerateRequest([7], 1)).result().ids
    release(second)
    release(second)  # once too often is harmless
    with pytest.raises(EngineClosedError):
        second.submit(GenerateRequest([7], 1))
    release(other)
    after = acquire(spec)
    assert after is not first
    assert after.submit(GenerateRequest([7], 1)).result().ids
    release(after)


def test_first_calls_from_many_threads_load_one_model(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_ends = engine_module.end_ids

    def slow(*args: Any) -> frozenset[int]:
        time.sleep(0.05)  # so that all threads come in while the first one prepares
        return find_ends(*args)

    monkeypatch.setattr(engine_module, "end_ids", slow)
    engine, ids = Engine(ModelSpec(PATH, max_slots=6)), random_ids(9)
    barrier = threading.Barrier(8)

    def call(_: int) -> list[int]:
        barrier.wait()
        return engine.submit(GenerateRequest(ids, 3)).result().ids

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(8)))
    engine.close()
    assert answers == [generate(PATH, ids, 3)] * 8
    assert loads == [PATH]


def test_models_are_loaded_one_after_another(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader of `transformers` changes what all threads see, and breaks in several at once."""
    load, inside, most = AutoModelForCausalLM.from_pretrained, [], []

    def watched(*args: Any, **kwargs: Any) -> Any:
        inside.append(args)
        time.sleep(0.02)
        most.append(len(inside))
        model = load(*args, **kwargs)
        inside.remove(args)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    engines = [fresh(PATH, max_slots=50 + n) for n in range(3)]
    for ticket in [engine.submit(GenerateRequest([7], 1)) for engine in engines]:
        ticket.result()
    assert most == [1, 1, 1]


def test_calls_from_many_threads_get_their_own_answers(fresh: Make) -> None:
    engine = fresh(PATH)
    prompts = [random_ids(3 + n, seed=n) for n in range(24)]

    def call(ids: list[int]) -> list[int]:
        if len(ids) % 3 == 0:
            engine.submit(ScoreRequest(ids)).result()
        return engine.submit(GenerateRequest(ids, 8)).result().ids

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(call, prompts)) == [generate(PATH, p, 8) for p in prompts]
