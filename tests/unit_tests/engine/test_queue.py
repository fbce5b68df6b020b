"""The queue: bounded where that is asked for, and served in the order of asking."""

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


def filled(engine: Engine, requests: int) -> list[RequestHandle]:
    """An engine that works on its first request until it is cancelled; the others wait."""
    started = threading.Event()
    tickets = [engine.submit(GenerateRequest(random_ids(9), LONG), lambda _: started.set())]
    assert started.wait(60)
    tickets += [engine.submit(GenerateRequest(random_ids(5 + n), 3)) for n in range(requests - 1)]
    return tickets


def test_beyond_the_queue_a_request_is_refused_and_begins_nothing(fresh: Make) -> None:
    engine = fresh(PATH, max_slots=1, max_queue=2)
    tickets = filled(engine, 3)
    for request in (GenerateRequest(random_ids(4), 1), ScoreRequest(random_ids(4))):
        with pytest.raises(EngineBusyError, match=r"busy: 3 .* max_queue=2 .*raise max_queue"):
            engine.submit(request)
    tickets[0].cancel()
    answers = [ticket.result() for ticket in tickets[1:]]  # those that wait are not harmed
    assert [a.ids for a in answers] == [generate(PATH, random_ids(5 + n), 3) for n in range(2)]
    assert engine.submit(GenerateRequest(random_ids(4), 1)).result().ids  # there is room again


def test_an_answer_that_was_begun_is_never_refused(fresh: Make) -> None:
    engine = fresh(PATH, max_slots=1, max_queue=0)
    tickets = filled(engine, 1)
    more = engine.submit(GenerateRequest(random_ids(4), 2), continues=True)
    tickets[0].cancel()
    assert more.result().ids == generate(PATH, random_ids(4), 2)


def test_without_a_bound_all_wait(fresh: Make) -> None:
    tickets = filled(fresh(PATH, max_slots=1), 40)
    tickets[0].cancel()
    assert all(ticket.result().ids for ticket in tickets[1:])


def test_the_plain_engine_runs_one_at_a_time_whatever_its_slots(fresh: Make) -> None:
    engine = fresh(PATH, engine="plain", max_slots=8, max_queue=1)
    tickets = filled(engine, 2)
    with pytest.raises(EngineBusyError, match=r"1 run at a time"):
        engine.submit(GenerateRequest(random_ids(4), 1))
    tickets[0].cancel()


def test_slots_go_to_those_who_came_first(fresh: Make) -> None:
    engine, order = fresh(PATH, max_slots=1), []
    tickets = filled(engine, 1)
    for n in range(6):
        heard = lambda _, n=n: order.append(n)  # noqa: E731
        tickets.append(engine.submit(GenerateRequest(random_ids(30 - n, seed=n), 1), heard))
    tickets[0].cancel()
    for ticket in tickets[1:]:
        ticket.result()
    assert order == list(range(6))


def test_long_prompts_that_keep_coming_do_not_starve_a_short_one(fresh: Make) -> None:
    """Prompts of similar length are read together: the one that came first is always among them."""
    engine, read = fresh(PATH), []

    def more(token: int) -> None:
        if len(read) < 12 and not short.future.done():
            read.append(token)
            engine.submit(GenerateRequest(random_ids(200, seed=len(read)), 1), more)

    gate = threading.Event()
    first = engine.submit(GenerateRequest(random_ids(200), 2), lambda _: gate.wait())
    short = engine.submit(GenerateRequest(random_ids(20, seed=99), 1))
    for n in range(3):
        engine.submit(GenerateRequest(random_ids(200, seed=50 + n), 1), more)
    gate.set()
    first.result()
    short.result()
    assert len(read) <= 3


def test_a_bound_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_queue must be at least 0, not -1"):
        ModelSpec(PATH, max_queue=-1)


def test_a_token_that_the_model_does_not_know_is_refused_and_disturbs_nobody(
    fresh: Make, loads: list[str]
) -> None:
    """As a model with the same tokenizer and more embeddings may write it."""
    engine, ids = fresh(PATH), random_ids(9)
    running = engine.submit(GenerateRequest(ids, 40))
    beyond = engine.vocabulary
    assert beyond is not None
    unknown = [*ids, beyond]
    for request in (
        GenerateRequest(unknown, 5),
        GenerateRequest(ids, 5, draft_tokens=unknown),
        ScoreRequest(unknown),
    ):
        with pytest.raises(SettingsError, match=rf"token {beyond} is none of the {beyond} that"):
            engine.submit(request)  # type: ignore[call-overload]
    assert running.result().ids == generate(PATH, ids, 40)
    assert loads == [PATH]
