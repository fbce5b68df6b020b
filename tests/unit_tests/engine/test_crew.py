"""Several hands at one model: they share its rows, and nobody else can tell."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from langgraph_arbitrage.engine import Engine, Ticket, Write, cores, crew, traces
from langgraph_arbitrage.engine.ahead import Ahead
from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.traces import Traces
from langgraph_arbitrage.errors import EngineClosedError, EngineError, RequestCancelledError
from spies import until
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", seed=11, endless=True)  # whose threads have a name of their own
WORDS = make("llama", seed=3, endless=True, words=True)
ASKED = [random_ids(9 + 7 * n, seed=n) for n in range(12)]
LONG = 800
FIRST = 9  # ids by which a row is told from the others


@pytest.fixture(autouse=True)
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hands, from the first rows on that a trace can serve."""
    monkeypatch.setattr(crew, "ALL", 3)
    monkeypatch.setattr(crew, "ENOUGH", 1)
    monkeypatch.setattr(traces, "MET", 1)


def write_all(engine: Engine, asked: list[list[int]], new: int) -> list[list[int]]:
    return [t.result().ids for t in [engine.submit(Write(ids, new)) for ids in asked]]


def warm(engine: Engine) -> None:
    """Have it traced."""
    write_all(engine, [random_ids(5)], 5)


def hands_in(schedulers: list[Scheduler]) -> set[int]:
    """Those that have had a row."""
    backend = schedulers[-1].backend
    assert isinstance(backend, SlotBackend)
    return {arena.hand for arena, slots in backend.table.arenas.items() if slots}


def threads(engine: Engine) -> int:
    """Of its worker: those of other tests' models may be there too."""
    mine = f"arbitrage-{engine.spec.name}"
    return sum(thread.name.startswith(mine) for thread in threading.enumerate())


def test_rows_are_shared_and_answered_as_alone(fresh: Make, schedulers: list[Scheduler]) -> None:
    engine = fresh(PATH)
    warm(engine)
    assert hands_in(schedulers) == {0}
    wanted = [generate(PATH, ids, 30) for ids in ASKED]
    for _ in range(3):  # into empty slots, then into those that hold their beginnings
        assert write_all(engine, ASKED, 30) == wanted
    assert hands_in(schedulers) == {0, 1, 2}
    assert not schedulers[-1].backend.table.busy()  # type: ignore[attr-defined]


def test_hands_that_wait_rest(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rested: set[str] = set()
    monkeypatch.setattr(cores.Cores, "rest", lambda _: rested.add(threading.current_thread().name))
    engine = fresh(PATH)
    warm(engine)
    write_all(engine, ASKED, 30)
    name = f"arbitrage-{engine.spec.name}"
    until(lambda: rested == {name, f"{name}-2", f"{name}-3"})


def test_a_step_goes_on_at_the_hand_that_holds_its_beginning(fresh: Make) -> None:
    engine = fresh(PATH)
    warm(engine)
    answers = [[*ids] for ids in ASKED[:6]]
    for step in range(5):
        tickets = [engine.submit(Write(ids, 8)) for ids in answers]
        for answer, ticket in zip(answers, tickets, strict=True):
            written = ticket.result()
            answer.extend(written.ids)
            assert not step or written.fed <= 9  # read nothing again
    assert answers == [ids + generate(PATH, ids, 40) for ids in ASKED[:6]]


def test_a_long_common_beginning_is_read_once_by_all_hands(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine, begun = fresh(PATH), random_ids(300, seed=3)
    warm(engine)
    tickets = [engine.submit(Write([*begun, *random_ids(4, seed=n)], 4)) for n in range(9)]
    fed = [ticket.result().fed for ticket in tickets]
    assert hands_in(schedulers) == {0, 1, 2}
    assert sum(fed) < 2 * len(begun)


def test_no_more_rows_at_a_time_than_slots(fresh: Make, schedulers: list[Scheduler]) -> None:
    engine, most = fresh(PATH, max_slots=4), []
    warm(engine)
    admit = SlotBackend.admit

    def counting(self: SlotBackend, *args: Any) -> bool:
        admitted = admit(self, *args)
        most.append(len(self.table.busy()))
        return admitted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SlotBackend, "admit", counting)
        assert write_all(engine, ASKED, 12) == [generate(PATH, ids, 12) for ids in ASKED]
    assert max(most) == 4
    assert hands_in(schedulers) > {0}


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], int]:
    """The hands of rows by the first of their ids; the first hand's where nothing is said."""
    found: dict[tuple[int, ...], int] = {}
    monkeypatch.setattr(
        Scheduler, "_hand_for", lambda _, row: found.get(tuple(row.tokens[:FIRST]), 0)
    )
    return found


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """Beginnings of rows whose loops, where they are alone, end by a halt only."""
    found: list[list[int]] = []
    decode = Traces.decode

    def waiting(self: Traces, batch: Batch, most: int, *args: Any) -> Any:
        first, flag = batch.rows[0], self.halts.flags[batch.rows[0].hand]
        while most > 2 and first.tokens[:FIRST] in found and not flag:
            with self.baton.laid_down():
                time.sleep(0.001)
        return decode(self, batch, most, *args)

    monkeypatch.setattr(Traces, "decode", waiting)
    yield found
    found.clear()


def test_a_request_for_a_hand_at_work_does_not_wait_for_a_step_to_end(
    fresh: Make, places: dict[tuple[int, ...], int], endless: list[list[int]]
) -> None:
    engine = fresh(PATH)
    warm(engine)
    first, second, third = ([*ids[:FIRST]] for ids in ASKED[:3])
    places.update({tuple(second): 1, tuple(third): 1})
    endless += [first, second]
    steps = [engine.submit(Write(ids, LONG)) for ids in endless]
    for n in range(5):
        engine.submit(Write([*third, n], 5)).future.result(20)
    assert not any(step.future.done() for step in steps)
    endless.clear()


def test_a_step_begun_at_another_hand_does_not_wait_for_the_first_one(
    fresh: Make,
    schedulers: list[Scheduler],
    places: dict[tuple[int, ...], int],
    endless: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which takes what is asked. The step is under way until it is asked for."""
    decode = Traces.decode

    def unasked(self: Traces, batch: Batch, *args: Any) -> Any:
        while endless and schedulers[-1].ahead.is_unasked(batch.rows[0]):
            with self.baton.laid_down():
                time.sleep(0.001)
        return decode(self, batch, *args)

    monkeypatch.setattr(Traces, "decode", unasked)
    engine = fresh(WORDS)
    warm(engine)
    first, second = ([*ids[:FIRST]] for ids in ASKED[:2])
    places[tuple(second)] = 1
    endless.append(first)
    long = engine.submit(Write(first, LONG))
    for _ in range(5):
        request = Write(second, 60, separators=("y",), ahead="certain")
        written = engine.submit(request).future.result(20)
        assert written.finish == "separator"
        second.extend(written.ids)
    assert not long.future.done()
    endless.clear()


def test_a_step_begun_at_another_hand_gives_its_slot_to_who_needs_it(
    fresh: Make,
    places: dict[tuple[int, ...], int],
    endless: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = ([*ids[:FIRST]] for ids in ASKED[:3])
    begin, begun = Ahead.begin, threading.Event()

    def noting(self: Ahead, row: Row) -> None:
        endless.append(second)
        begin(self, row)
        begun.set()

    monkeypatch.setattr(Ahead, "begin", noting)
    engine = fresh(WORDS, max_slots=2)
    warm(engine)
    places[tuple(second)] = 1
    endless.append(first)
    long = engine.submit(Write(first, LONG))
    request = Write(second, 60, separators=("y",), ahead="certain")
    assert engine.submit(request).future.result(20).finish == "separator"
    assert begun.wait(20)
    engine.submit(Write(third, 5)).future.result(20)
    assert not long.future.done()
    endless.clear()


def test_a_hand_that_fails_fails_all_who_wait_and_is_followed_by_another(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH)
    warm(engine)
    forward = SlotBackend.forward

    def failing(self: SlotBackend, batch: Any) -> Tensor:
        if batch.rows[0].hand == 2:
            monkeypatch.setattr(SlotBackend, "forward", forward)
            raise MemoryError("no memory for this")
        return forward(self, batch)

    monkeypatch.setattr(SlotBackend, "forward", failing)
    tickets = [engine.submit(Write(ids, LONG)) for ids in ASKED]
    for ticket in tickets:
        with pytest.raises(EngineError, match="MemoryError: no memory for this"):
            ticket.result()
    assert write_all(engine, ASKED, 9) == [generate(PATH, ids, 9) for ids in ASKED]
    assert len(schedulers) == 3  # of the capability check, and one for each worker
    engine.close()
    assert threads(engine) == 0


def test_hands_that_fail_together_load_the_model_no_further_time(
    fresh: Make, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, both = fresh(PATH), threading.Barrier(2)
    warm(engine)
    forward = SlotBackend.forward

    def failing(self: SlotBackend, batch: Any) -> Tensor:
        if batch.rows[0].hand:
            with self.faster.baton.laid_down():  # type: ignore[union-attr]
                both.wait(60)
            raise MemoryError("no memory for this")
        return forward(self, batch)

    monkeypatch.setattr(SlotBackend, "forward", failing)
    for ticket in [engine.submit(Write(ids, LONG)) for ids in ASKED]:
        with pytest.raises(EngineError):
            ticket.result()
    while threads(engine):
        time.sleep(0.001)
    assert len(loads) == 1


def test_closing_by_a_hand_itself_waits_for_nobody(fresh: Make) -> None:
    engine, closed = fresh(PATH), threading.Event()
    warm(engine)

    def close(_: object) -> None:
        if threading.current_thread().name.endswith(("-2", "-3")):
            engine.close()
            closed.set()

    tickets = [engine.submit(Write(ids, 40)) for ids in ASKED]
    for ticket in tickets:
        ticket.future.add_done_callback(close)
    assert closed.wait(60)
    for ticket in tickets:
        assert isinstance(ticket.future.exception(60), EngineClosedError | None)


def test_a_closed_engine_is_gone_with_its_weights_at_once(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    warm(engine)
    write_all(engine, ASKED, 8)
    model = weakref.ref(schedulers[-1].backend.model)  # type: ignore[attr-defined]
    schedulers.clear()
    gc.disable()
    try:
        engine.close()
        assert model() is None
    finally:
        gc.enable()


def test_where_forwards_need_the_interpreter_again_the_first_hand_ends_all_rows(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    warm(engine)
    write_all(engine, ASKED, 8)
    tickets = [engine.submit(Write(ids, 80)) for ids in ASKED]
    while len({row.hand for row in (*schedulers[-1].running,)}) < 3:
        assert not all(ticket.future.done() for ticket in tickets)
    schedulers[-1].backend.faster.disable("so it is asked")  # type: ignore[attr-defined]
    assert [t.result().ids for t in tickets] == [generate(PATH, ids, 80) for ids in ASKED]
    assert write_all(engine, ASKED, 8) == [generate(PATH, ids, 8) for ids in ASKED]
    assert schedulers[-1].crew.retired  # type: ignore[union-attr]


def test_a_beginning_that_all_hold_is_no_reason_to_crowd(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "LATELY", 0)
    engine, begun = fresh(PATH), random_ids(40, seed=5)
    warm(engine)
    write_all(engine, [[*begun, *random_ids(9, seed=n)] for n in range(9)], 4)
    scheduler, found = schedulers[-1], []
    with scheduler.baton:  # nobody takes a row meanwhile
        for n in range(3):
            row = Row(Ticket(Write([*begun, *random_ids(7, seed=50 + n)], 4)))
            row.hand = scheduler._hand_for(row)
            scheduler.waiting.append(row)
            found.append(row.hand)
        scheduler.waiting.clear()
    assert sorted(found) == [0, 1, 2]


def test_a_row_goes_to_the_hand_that_holds_its_beginning(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "LATELY", 0)
    engine = fresh(PATH)
    warm(engine)
    write_all(engine, ASKED, 8)
    scheduler = schedulers[-1]
    with scheduler.baton:
        for arena, there in scheduler.backend.table.arenas.items():  # type: ignore[attr-defined]
            held = max((slot.ids for slot in there), key=len)
            if len(held) > 30:
                row = Row(Ticket(Write([*held, 7], 4)))
                assert scheduler._hand_for(row) == arena.hand


def test_the_last_place_is_kept_for_whoever_came_first(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    warm(engine)
    scheduler = schedulers[-1]
    with scheduler.baton:
        scheduler.backend.table.max_slots = 1  # type: ignore[attr-defined]
        for hand in (1, 0):
            scheduler.waiting.append(Row(Ticket(Write(ASKED[hand], 4))))
            scheduler.waiting[-1].hand = hand
        scheduler._admit(0)
        admitted = scheduler.running[:]
        scheduler.waiting.clear()
    assert admitted == []


def test_closing_ends_all_hands_and_tells_all_who_wait(fresh: Make) -> None:
    engine = fresh(PATH)
    warm(engine)
    tickets = [engine.submit(Write(ids, LONG)) for ids in ASKED]
    while threads(engine) < 3:
        assert not all(ticket.future.done() for ticket in tickets)
    engine.close()
    assert threads(engine) == 0
    for ticket in tickets:
        with pytest.raises(EngineClosedError):
            ticket.result()


def test_a_cancelled_row_of_any_hand_leaves_and_harms_nobody(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH)
    warm(engine)
    tickets = [engine.submit(Write(ids, LONG if n % 2 else 60)) for n, ids in enumerate(ASKED)]
    for ticket in tickets[1::2]:
        ticket.cancel()
        with pytest.raises(RequestCancelledError):
            ticket.result()
    kept = [ticket.result().ids for ticket in tickets[::2]]
    assert kept == [generate(PATH, ids, 60) for ids in ASKED[::2]]
    assert not schedulers[-1].backend.table.busy()  # type: ignore[attr-defined]


def test_where_another_model_works_its_core_is_left_alone(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH)
    warm(engine)
    monkeypatch.setattr(cores, "_at_work", {-1, -2})
    write_all(engine, ASKED, 8)
    assert hands_in(schedulers) == {0}
    monkeypatch.setattr(cores, "_at_work", {-1})
    monkeypatch.setattr(cores, "_left", {})
    write_all(engine, ASKED, 8)
    assert hands_in(schedulers) == {0, 1}


@pytest.mark.parametrize("settings", [{"threads": 1}, {"engine": "eager"}], ids=str)
def test_one_hand_where_that_is_asked_for_or_python_is_needed(
    settings: dict[str, Any], fresh: Make, schedulers: list[Scheduler]
) -> None:
    engine = fresh(PATH, **settings)
    warm(engine)
    write_all(engine, ASKED, 8)
    assert hands_in(schedulers) == {0}


def test_a_small_model_keeps_few_rows_together(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh(PATH)
    warm(engine)
    parameters = engine.footprint.parameters  # type: ignore[union-attr]
    monkeypatch.setattr(crew, "ENOUGH", 6 * parameters)  # rows of a hand
    write_all(engine, ASKED[:11], 8)
    assert hands_in(schedulers) == {0}
    write_all(engine, ASKED, 8)
    assert hands_in(schedulers) == {0, 1}


def test_the_baton_is_held_by_one_at_a_time() -> None:
    baton, inside, most = crew.Baton(), 0, 0

    def hold() -> None:
        nonlocal inside, most
        for _ in range(200):
            with baton:
                inside += 1
                most = max(most, inside)
                inside -= 1
                with baton.laid_down():
                    time.sleep(0)
                inside += 1
                most = max(most, inside)
                inside -= 1

    held = [threading.Thread(target=hold) for _ in range(4)]
    for thread in held:
        thread.start()
    for thread in held:
        thread.join()
    assert most == 1
    with pytest.raises(ValueError, match="a forward"), baton, baton.laid_down():
        raise ValueError("a forward")
    with baton:  # it was taken up and given back
        pass


def test_a_hand_computes_while_another_decides(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else several of them would be of no use."""
    engine = fresh(PATH)
    warm(engine)
    inside, most, lock = 0, 0, threading.Lock()
    laid_down = crew.Baton.laid_down

    @contextmanager
    def watched(self: crew.Baton) -> Iterator[None]:
        nonlocal inside, most
        with laid_down(self):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.005)
            with lock:
                inside -= 1
            yield

    monkeypatch.setattr(crew.Baton, "laid_down", watched)
    write_all(engine, ASKED, 8)
    assert most == 3
