"""Steps that are begun before they are asked for: the same ones, and in nobody's way."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, embedded
from langgraph_arbitrage.engine import (
    Engine,
    ModelSpec,
    Sampling,
    Write,
    Written,
    ahead,
    cores,
    crew,
    load_tokenizer,
    traces,
)
from langgraph_arbitrage.engine.ahead import Ahead, next_step
from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.engine.traces import Traces
from langgraph_arbitrage.errors import NotEnoughMemoryError, RequestCancelledError
from spies import until
from tiny import random_ids

Make = Callable[..., Engine]
DRAFT = str(embedded.DRAFT)


def prompt(question: str) -> list[int]:
    return load_tokenizer(ModelSpec(DRAFT)).render([{"role": "user", "content": question}])


QUESTION = max((p.question for p in embedded.problems(20, 77)), key=len)
STEP = Write(prompt(QUESTION), 60, separators=("\n\n",), ahead="likely")
"""The first of several."""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "ALL", 2)
    monkeypatch.setattr(traces, "MET", 1)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """For each request whether its step had been begun; None where none had been."""
    found: list[bool | None] = []
    asked = Ahead.asked

    def noting(self: Ahead, ticket: Ticket[Any]) -> Row | None:
        there = bool(self._rows)
        row = asked(self, ticket)
        found.append(row is not None if there else None)
        return row

    monkeypatch.setattr(Ahead, "asked", noting)
    return found


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows that were begun before they were asked for."""
    rows: list[Row] = []
    begin = Ahead.begin

    def noting(self: Ahead, row: Row) -> None:
        rows.append(row)
        begin(self, row)

    monkeypatch.setattr(Ahead, "begin", noting)
    return rows


def warm(engine: Engine) -> None:
    for _ in range(3):
        engine.submit(replace(STEP, ids=STEP.ids[:-4], ahead="no", separators=())).result()


@pytest.fixture
def eager(engine: Make) -> Make:
    """What writes the same one token at a time."""
    return lambda path: engine(path, engine="eager")


def after(request: Write, written: Written) -> Write:
    """The request for the step behind this one."""
    return replace(request, ids=[*request.ids, *written.ids])


# --- what is likely to be asked ----------------------------------------------------------

WRITTEN = Written([7, 8], [0.0, 0.0], "separator", fed=2, cached=0, kept=0, seconds=0.1)


def test_the_next_step_goes_on_from_where_this_one_ends() -> None:
    request = replace(STEP, begun=3, proposal=(7, 9))
    found = next_step(request, WRITTEN)
    assert found is not None
    assert list(found.ids) == [*STEP.ids, 7, 8]
    assert (found.begun, found.proposal, found.separators) == (0, (), STEP.separators)


@pytest.mark.parametrize(
    ("changed", "finish"),
    [
        ({"ahead": "no"}, "separator"),
        ({}, "end"),
        ({}, "length"),
        ({"stop": ("x",)}, "separator"),
        ({"sampling": Sampling(temperature=0.5)}, "separator"),
    ],
    ids=str,
)
def test_none_is_begun_that_might_be_another(changed: dict[str, Any], finish: Any) -> None:
    assert next_step(replace(STEP, **changed), replace(WRITTEN, finish=finish)) is None


def test_a_step_that_failed_before_anybody_asked_is_written_again() -> None:
    """As where there was no memory for it: the worker lives on, and nobody gets its error."""
    there, row = Ahead(), Row(Ticket(STEP))
    there.begin(row)
    row.ticket.fail(NotEnoughMemoryError("none"))
    assert there.asked(Ticket(STEP)) is None
    assert not there.is_unasked(row)


# --- in the engine -----------------------------------------------------------------------


def test_steps_in_a_row_are_the_same_as_without(
    fresh: Make, eager: Make, taken: list[bool | None]
) -> None:
    engine, plain = fresh(DRAFT), eager(DRAFT)
    warm(engine)
    warm(plain)
    taken.clear()
    request = STEP
    for n in range(8):
        until(lambda: not cores.at_work())
        found, wanted = engine.submit(request).result(), plain.submit(request).result()
        assert (found.ids, found.finish) == (wanted.ids, wanted.finish)
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert found.fed == wanted.fed
        if found.finish == "end":
            break
        if n % 2:
            time.sleep(0.05)  # it is written before it is asked for
        request = after(request, found)
    assert taken.count(True) == n >= 3  # the other engine's requests find none


@pytest.mark.parametrize(
    "changed",
    [{"ids": random_ids(30)}, {"max_tokens": 2}, {"separators": ("a",)}],
    ids=lambda changed: next(iter(changed)),
)
@pytest.mark.parametrize("written", [True, False])
def test_another_request_ends_what_was_begun(
    changed: dict[str, Any],
    written: bool,
    fresh: Make,
    eager: Make,
    schedulers: list[Scheduler],
    begun: list[Row],
) -> None:
    engine, plain = fresh(DRAFT), eager(DRAFT)
    warm(engine)
    scheduler = schedulers[-1]
    until(lambda: not cores.at_work())
    request = after(STEP, engine.submit(STEP).result())
    until(lambda: begun)
    if written:
        until(begun[0].ticket.future.done)
    other = replace(request, **changed)
    found, wanted = engine.submit(other).result(), plain.submit(other).result()
    assert (found.ids, found.finish) == (wanted.ids, wanted.finish)
    until(lambda: not scheduler.busy)
    backend = scheduler.backend
    assert isinstance(backend, SlotBackend)
    assert backend.table.busy() == []


def test_a_listener_hears_every_token(
    fresh: Make, begun: list[Row], taken: list[bool | None]
) -> None:
    engine = fresh(DRAFT)
    warm(engine)
    until(lambda: not cores.at_work())
    request = after(STEP, engine.submit(STEP).result())
    until(lambda: begun)
    heard: list[int] = []
    assert engine.submit(request, heard.append).result().ids == heard
    assert taken[-1] is False
    begun.clear()  # whoever listens to a step listens to the next one, and none is begun for it
    engine.submit(replace(CERTAIN, ids=MANY[0]), heard.append).result()
    assert begun == []


def test_a_step_is_taken_over_while_it_is_written(
    fresh: Make, eager: Make, begun: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loop is held until the request is there, and obeys that request's limit then."""
    held, made = threading.Event(), traces.loop_of

    def loop_of(*args: Any) -> Any:
        loop = made(*args)
        return lambda *args: (begun and held.wait(60), loop(*args))[1]

    monkeypatch.setattr(traces, "loop_of", loop_of)
    engine, plain = fresh(DRAFT), eager(DRAFT)
    for limit in (60, 3):
        begun.clear()
        warm(engine)
        held.clear()
        until(lambda: not cores.at_work())
        first = engine.submit(STEP).result()
        until(lambda: begun and begun[0].batch is not None)
        request = replace(after(STEP, first), max_tokens=limit)
        ticket = engine.submit(request)
        engine._worker._halts.ask()  # type: ignore[union-attr] - as another request would
        held.set()
        found, wanted = ticket.result(), plain.submit(request).result()
        assert (found.ids, found.finish) == (wanted.ids, wanted.finish)
        assert begun[0].ticket is ticket


def test_a_step_that_does_not_end_is_not_written_on_for_ever(
    fresh: Make,
    eager: Make,
    begun: list[Row],
    taken: list[bool | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "MOST", 2)
    engine, plain = fresh(DRAFT), eager(DRAFT)
    warm(engine)
    until(lambda: not cores.at_work())
    request = after(STEP, engine.submit(STEP).result())
    until(lambda: begun)
    until(begun[0].ticket.future.done)
    assert len(begun[0].ticket.result(0).ids) <= 2
    assert engine.submit(request).result().ids == plain.submit(request).result().ids
    assert False in taken


def test_none_is_begun_where_the_core_is_needed(
    fresh: Make, begun: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(DRAFT)
    warm(engine)
    with monkeypatch.context() as patched:
        patched.setattr(cores, "_at_work", {1, 2})  # other models'
        engine.submit(STEP).result()
    tickets = [engine.submit(replace(STEP, ids=random_ids(40, seed=n))) for n in range(3)]
    for ticket in tickets[:2]:
        ticket.result()
    assert begun == []


def test_a_model_that_fails_meanwhile_is_loaded_again(
    fresh: Make, eager: Make, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = fresh(DRAFT), eager(DRAFT)
    warm(engine)
    warm(plain)
    loads.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Ahead, "begin", lambda ahead, row: setattr(row, "room", None))
        until(lambda: not cores.at_work())
        first = engine.submit(STEP).result()
        until(lambda: engine._worker._thread is None)  # type: ignore[union-attr]
    request = after(STEP, first)
    assert engine.submit(request).result().ids == plain.submit(request).result().ids
    assert len(loads) == 1


# --- what is certain ---------------------------------------------------------------------

CERTAIN = replace(STEP, ahead="certain")
MANY = [prompt(p.question) for p in embedded.problems(6, 78)]


def written_out(engine: Engine, request: Write) -> list[int]:
    """All steps of an answer, one after the other."""
    ids: list[int] = []
    for _ in range(40):
        step = engine.submit(replace(request, ids=[*request.ids, *ids])).result()
        ids += step.ids
        if step.finish != "separator":
            return ids
    raise AssertionError("it does not end")


def test_certain_steps_of_many_go_on_beside_each_other(
    fresh: Make, eager: Make, taken: list[bool | None], schedulers: list[Scheduler]
) -> None:
    engine, plain = fresh(DRAFT), eager(DRAFT)
    warm(engine)
    scheduler = schedulers[-1]
    wanted = [written_out(plain, replace(STEP, ids=ids, ahead="no")) for ids in MANY]
    taken.clear()
    with ThreadPoolExecutor(len(MANY)) as pool:
        found = pool.map(lambda ids: written_out(engine, replace(CERTAIN, ids=ids)), MANY)
        assert list(found) == wanted
    assert taken.count(True) > 2 * len(MANY)
    until(lambda: not scheduler.busy)
    assert isinstance(scheduler.backend, SlotBackend)
    assert scheduler.backend.table.busy() == []


def test_two_who_ask_the_same_get_the_same(fresh: Make, eager: Make) -> None:
    engine, plain = fresh(DRAFT), eager(DRAFT)
    wanted = written_out(plain, replace(STEP, ahead="no"))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: written_out(engine, CERTAIN), range(4))) == 4 * [wanted]


def test_a_slot_that_another_waits_for_is_given_up_between_steps(
    fresh: Make, begun: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loop of the step is held until the other request is there."""
    there, made = threading.Event(), traces.loop_of
    there.set()

    def loop_of(*args: Any) -> Any:
        loop = made(*args)
        return lambda *args: (there.wait(60), loop(*args))[1]

    monkeypatch.setattr(traces, "loop_of", loop_of)
    engine = fresh(DRAFT, max_slots=1)
    warm(engine)
    there.clear()
    first = engine.submit(CERTAIN)
    other = engine.submit(replace(CERTAIN, ids=MANY[0]))
    there.set()
    assert first.result().finish == "separator"
    assert other.result().finish == "separator"
    until(lambda: begun)
    assert [list(row.request.ids[: len(MANY[0])]) for row in begun] == [MANY[0]]


def test_a_slot_is_given_up_within_a_token_where_another_needs_it(
    fresh: Make, begun: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that nobody has asked for yet writes until it is halted."""
    decode = Traces.decode

    def held(self: Traces, batch: Batch, *args: Any) -> Any:
        end = time.monotonic() + 10 * (batch.rows[0] in begun)
        while time.monotonic() < end and not self.halts.flags[0]:
            time.sleep(0.001)
        return decode(self, batch, *args)

    engine = fresh(DRAFT, max_slots=1)
    warm(engine)
    begun.clear()
    monkeypatch.setattr(Traces, "decode", held)
    engine.submit(CERTAIN).result()
    until(lambda: begun)
    engine.submit(replace(STEP, ids=MANY[0])).result()
    assert isinstance(begun[0].ticket.future.exception(0), RequestCancelledError)


def test_nothing_is_begun_behind_a_request_that_was_cancelled(
    fresh: Make, begun: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled just when its step ends."""
    ended = Row.written

    def written(self: Row, finish: Any) -> Any:
        self.ticket.cancel()
        return ended(self, finish)

    engine = fresh(DRAFT)
    warm(engine)
    begun.clear()
    monkeypatch.setattr(Row, "written", written)
    assert engine.submit(CERTAIN).future.result().finish == "separator"
    engine.submit(replace(STEP, ahead="no", ids=MANY[0])).future.result()
    assert not begun


@pytest.mark.parametrize("written", [True, False])
def test_the_last_step_of_an_answer_is_taken_over_and_followed_by_none(
    written: bool, fresh: Make, begun: list[Row], taken: list[bool | None]
) -> None:
    engine = fresh(DRAFT)
    warm(engine)
    begun.clear()
    request = after(CERTAIN, engine.submit(CERTAIN).result())
    if written:
        until(lambda: begun and begun[0].ticket.future.done())
    taken.clear()
    engine.submit(replace(request, ahead="no")).result()
    assert taken == [True]
    assert len(begun) == 1


@pytest.mark.parametrize(("bound", "most"), [("KEPT", 2), ("KEPT_IDS", 1)])
def test_steps_that_nobody_comes_for_are_forgotten_in_the_end(
    bound: str, most: int, fresh: Make, begun: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, bound, most)
    engine = fresh(DRAFT)
    for ids in MANY:
        assert engine.submit(replace(CERTAIN, ids=ids)).result().finish == "separator"
    until(lambda: len(begun) == len(MANY))
    assert engine._worker._ahead is not None  # type: ignore[union-attr]
    assert len(engine._worker._ahead._rows) == most  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("router", "settings", "wanted"),
    [
        (AlwaysTarget(), {}, {"certain"}),
        (AlwaysDraft(), {}, {"certain"}),
        (AlwaysTarget(), {"max_steps": 1}, {"no"}),
        (None, {}, {"likely", "no"}),
    ],
    ids=["the target alone", "the draft alone", "the last step", "the loop"],
)
def test_who_is_asked_again_is_said_by_the_policy(
    router: Any, settings: dict[str, Any], wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    submit = Engine.submit

    def noting(self: Engine, request: Any, *args: Any, **options: Any) -> Any:
        if isinstance(request, Write):
            asked.add(request.ahead)
        return submit(self, request, *args, **options)

    monkeypatch.setattr(Engine, "submit", noting)
    llm = ChatArbitrage(router=router, max_tokens=200, **settings)
    llm.invoke(QUESTION)
    llm.close()
    assert asked == wanted


# --- in the loop -------------------------------------------------------------------------


def test_the_drafts_steps_are_begun_while_those_before_are_judged(
    taken: list[bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [p.question for p in embedded.problems(2, 77)]
    llm = ChatArbitrage(max_tokens=200)
    found = [llm.invoke(question).text for question in asked]
    assert True in taken
    assert False in taken  # some are escalated
    llm.close()
    monkeypatch.setattr(crew, "ALL", 1)
    taken.clear()
    plain = ChatArbitrage(max_tokens=200)
    assert [plain.invoke(question).text for question in asked] == found
    assert set(taken) == {None}
    plain.close()


def test_alone_a_draft_has_every_step_begun(taken: list[bool | None]) -> None:
    llm = ChatArbitrage(router=AlwaysDraft(), max_tokens=200)
    llm.invoke("What is 17 + 25?")
    taken.clear()
    message = llm.invoke("What is 31 + 25?")
    steps = message.response_metadata["arbitrage"]["steps"]
    assert taken.count(True) == len(steps) - 1
    llm.close()
