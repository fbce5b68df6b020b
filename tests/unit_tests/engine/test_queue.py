"""The queue: order, limits, and invalid requests."""

import threading
from collections.abc import Callable

import pytest

from langgraph_arbitrage.engine import (
    Engine,
    GenerateRequest,
    ModelSpec,
    RequestHandle,
    ScoreRequest,
)
from langgraph_arbitrage.errors import EngineBusyError, SettingsError
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
LONG = 800


def fill(engine: Engine, requests: int) -> list[RequestHandle]:
    """Submit requests. The first one runs until it is cancelled; the others wait."""
    started = threading.Event()
    handles = [engine.submit(GenerateRequest(random_ids(9), LONG), lambda _: started.set())]
    assert started.wait(60)
    handles += [engine.submit(GenerateRequest(random_ids(5 + n), 3)) for n in range(requests - 1)]
    return handles


def test_a_full_queue_refuses_requests_without_affecting_others(fresh: Make) -> None:
    engine = fresh(PATH, max_slots=1, max_queue=2)
    handles = fill(engine, 3)
    for request in (GenerateRequest(random_ids(4), 1), ScoreRequest(random_ids(4))):
        with pytest.raises(EngineBusyError, match=r"busy: 3 .* max_queue=2 .*raise max_queue"):
            engine.submit(request)
    handles[0].cancel()
    outputs = [handle.result() for handle in handles[1:]]
    assert [o.ids for o in outputs] == [generate(PATH, random_ids(5 + n), 3) for n in range(2)]
    assert engine.submit(GenerateRequest(random_ids(4), 1)).result().ids  # there is room again


def test_a_request_that_continues_an_answer_is_never_refused(fresh: Make) -> None:
    engine = fresh(PATH, max_slots=1, max_queue=0)
    handles = fill(engine, 1)
    more = engine.submit(GenerateRequest(random_ids(4), 2), continues=True)
    handles[0].cancel()
    assert more.result().ids == generate(PATH, random_ids(4), 2)


def test_by_default_the_queue_is_unlimited(fresh: Make) -> None:
    handles = fill(fresh(PATH, max_slots=1), 40)
    handles[0].cancel()
    assert all(handle.result().ids for handle in handles[1:])


def test_the_plain_runner_has_one_slot_regardless_of_max_slots(fresh: Make) -> None:
    engine = fresh(PATH, engine="plain", max_slots=8, max_queue=1)
    handles = fill(engine, 2)
    with pytest.raises(EngineBusyError, match=r"limit is 1 running plus max_queue=1"):
        engine.submit(GenerateRequest(random_ids(4), 1))
    handles[0].cancel()


def test_slots_are_assigned_in_order_of_arrival(fresh: Make) -> None:
    engine, order = fresh(PATH, max_slots=1), []
    handles = fill(engine, 1)
    for n in range(6):
        listener = lambda _, n=n: order.append(n)  # noqa: E731
        request = GenerateRequest(random_ids(30 - n, seed=n), 1)
        handles.append(engine.submit(request, listener))
    handles[0].cancel()
    for handle in handles[1:]:
        handle.result()
    assert order == list(range(6))


def test_a_stream_of_long_prompts_does_not_starve_a_short_one(fresh: Make) -> None:
    engine, finished = fresh(PATH), []

    def submit_next(token: int) -> None:
        if len(finished) < 12 and not short.future.done():
            finished.append(token)
            request = GenerateRequest(random_ids(200, seed=len(finished)), 1)
            engine.submit(request, submit_next)

    gate = threading.Event()
    first = engine.submit(GenerateRequest(random_ids(200), 2), lambda _: gate.wait())
    short = engine.submit(GenerateRequest(random_ids(20, seed=99), 1))
    for n in range(3):
        engine.submit(GenerateRequest(random_ids(200, seed=50 + n), 1), submit_next)
    gate.set()
    first.result()
    short.result()
    assert len(finished) <= 3


def test_a_negative_max_queue_is_rejected() -> None:
    with pytest.raises(SettingsError, match="max_queue must be at least 0, not -1"):
        ModelSpec(PATH, max_queue=-1)


def test_a_token_outside_the_vocabulary_is_rejected_without_affecting_others(
    fresh: Make, loads: list[str]
) -> None:
    """A model with the same tokenizer and more embeddings may generate such a token."""
    engine, ids = fresh(PATH), random_ids(9)
    running = engine.submit(GenerateRequest(ids, 40))
    size = engine.vocab_size
    assert size is not None
    unknown = [*ids, size]
    for request in (
        GenerateRequest(unknown, 5),
        GenerateRequest(ids, 5, draft_tokens=unknown),
        ScoreRequest(unknown),
    ):
        with pytest.raises(
            SettingsError, match=rf"Token id {size} is outside .* has {size} tokens"
        ):
            engine.submit(request)  # type: ignore[call-overload]
    assert running.result().ids == generate(PATH, ids, 40)
    assert loads == [PATH]
