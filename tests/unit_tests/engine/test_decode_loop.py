"""Several tokens without the interpreter: the same ones, and no more than may be."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from langgraph_arbitrage.engine import (
    Engine,
    Sampling,
    Write,
    decode_loop,
    slot_backend,
    slots,
    traces,
)
from langgraph_arbitrage.engine.crew import Halts
from langgraph_arbitrage.engine.decode_loop import loop_of
from langgraph_arbitrage.engine.row import Batch
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.traces import Traces, script_of
from langgraph_arbitrage.errors import RequestCancelledError
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
ENDLESS = make("llama", endless=True)
WORDS = make("llama", words=True)
IDS = random_ids(20)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MET", 1)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each loop has written."""
    found: list[int] = []
    decode = Traces.decode

    def noting(self: Traces, *args: Any) -> Any:
        written = decode(self, *args)
        found.append(len(written[0]) if written else 0)
        return written

    monkeypatch.setattr(Traces, "decode", noting)
    return found


def warm(engine: Engine) -> None:
    for _ in range(2):
        engine.submit(Write(random_ids(4), 60)).result()


# --- the loop itself ---------------------------------------------------------------------


def counting(step: int = 1) -> Any:
    """A trace of a model that counts: after token n it writes n + step."""

    def function(tokens: Tensor, bounds: Tensor, wanted: Tensor, held: Tensor) -> Tensor:
        held.add_(1)
        return torch.nn.functional.one_hot((tokens[0] + step) % 9, 9).float()

    return script_of(function, (*inputs(2)[:3], torch.zeros(1)))


def inputs(rows: int, at: int = 0) -> tuple[Tensor, ...]:
    tokens = torch.full((4, rows, 1), at)
    return tokens, torch.zeros(1, 5).long(), torch.tensor([0]), torch.ones(rows, 1).long()


def run(most: int, stop: int | None = None, halt: int = 0, rows: int = 1) -> Any:
    tokens, bounds, wanted, goes_on = inputs(rows)
    goes_on[1:] = 0
    stops = torch.zeros(9).bool()
    if stop is not None:
        stops[stop] = True
    held = torch.zeros(1)
    flag = torch.tensor(halt, dtype=torch.uint8)
    loop = loop_of(counting(), 1)
    ids, logprobs = loop(tokens, bounds, wanted, goes_on, stops, flag, most, [held])
    return ids, logprobs, tokens, bounds, int(held)


def test_it_ends_at_most_tokens_at_one_to_stop_at_and_when_it_is_halted() -> None:
    assert run(5)[0][:, 0].tolist() == [1, 2, 3, 4, 5]
    assert run(5, stop=3)[0][:, 0].tolist() == [1, 2, 3]
    assert run(5, halt=1)[0][:, 0].tolist() == [1]
    assert run(5, stop=3)[4] == 3  # forwards


def test_each_token_is_fed_one_place_further_on_and_padding_stays() -> None:
    ids, logprobs, tokens, bounds, _ = run(4, rows=2)
    assert ids.shape == logprobs.shape == (4, 2)
    assert tokens[:, :, 0].tolist() == [
        [4, 4],
        [4, 0],
        [4, 0],
        [0, 0],
    ]  # ids, places, writes, slots
    assert bounds.tolist() == [[0, 0, 0, 0, 4]]  # one more is read each time
    wanted = torch.tensor([1.0] + 8 * [0.0]).log_softmax(0)[0]
    assert torch.allclose(logprobs, wanted.expand(4, 2))


def test_a_halt_ends_a_loop_that_runs() -> None:
    halts, tokens = Halts(), inputs(1)
    loop, never, most = loop_of(counting(), 1), torch.zeros(9).bool(), 10**7
    timer = threading.Timer(0.05, halts.ask)
    timer.start()
    ids, _ = loop(*tokens[:3], tokens[3], never, halts.flags[2], most, [torch.zeros(1)])
    assert len(ids) < most  # which would take minutes


def test_halts_are_heeded_by_each_hand_for_itself() -> None:
    halts = Halts()
    halts.ask()
    halts.heed(1)
    assert halts.flags[:3].tolist() == [1, 0, 1]


# --- in the engine -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [{}, {"separators": (".",)}, {"separators": ("\n\n",)}, {"stop": ("e",)}, {"max_tokens": 7}],
    ids=str,
)
def test_steps_are_the_same_as_token_by_token(
    limits: dict[str, Any], fresh: Make, lengths: list[int]
) -> None:
    engine, plain = fresh(WORDS), fresh(WORDS, engine="eager")
    warm(engine)
    lengths.clear()
    for n in range(6):
        request = Write(random_ids(9 + n, seed=n), **{"max_tokens": 60} | limits)
        found, wanted = engine.submit(request).result(), plain.submit(request).result()
        assert (found.ids, found.finish) == (wanted.ids, wanted.finish)
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert found.fed == wanted.fed
    assert max(lengths) > 1


def test_only_tokens_that_may_end_a_step_are_looked_at(fresh: Make, lengths: list[int]) -> None:
    engine = fresh(WORDS)
    request = Write(IDS, 100, separators=("~~~~",))  # which never comes
    for _ in range(3):
        lengths.clear()
        engine.submit(request).result()
    assert sum(lengths) >= 98
    assert len(lengths) <= 3  # views are compared one power of two at a time


def test_several_rows_write_two_at_a_time_and_lose_what_is_behind_their_end(
    fresh: Make, schedulers: list[Scheduler], lengths: list[int]
) -> None:
    asked = [random_ids(12, seed=n) for n in range(5)]
    engine, plain = fresh(WORDS), fresh(WORDS, engine="eager")
    for _ in range(3):  # the next time in the slots that they had, the other way round
        asked.reverse()
        requests = [Write(ids, 60, separators=(".",)) for ids in asked]
        tickets = [engine.submit(request) for request in requests]
        found = [t.result().ids for t in tickets]
        assert found == [plain.submit(request).result().ids for request in requests]
    assert 2 in lengths
    backend = next(s.backend for s in schedulers if getattr(s.backend, "faster", None))
    assert isinstance(backend, SlotBackend)
    whole = [ids + new for ids, new in zip(asked, found, strict=True)]
    for arena in backend.table.arenas.values():
        for slot in arena:  # what a slot says it holds was written, but for its last token
            assert any(slot.ids == w[: len(slot.ids)] and len(slot.ids) < len(w) for w in whole)


def test_a_row_writes_two_at_a_time_while_another_reads_its_prompt(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(slot_backend.CHUNK, "cpu", 16)
    beside: list[int] = []
    decode = Traces.decode

    def noting(self: Traces, batch: Batch, *args: Any) -> Any:
        others = [row for s in schedulers for row in s.running if row not in batch.rows]
        reading = any(row.remaining > 1 for row in others)
        written = decode(self, batch, *args)
        if reading:
            beside.append(len(written[0]) if written else 0)
        return written

    monkeypatch.setattr(Traces, "decode", noting)
    engine, plain = fresh(WORDS), fresh(WORDS, engine="eager")
    for n in range(3):
        writes = Write(random_ids(12, seed=n), 60, separators=(".",))
        reads = Write(random_ids(200, seed=n), 4, separators=(".",))
        tickets = [engine.submit(request) for request in (writes, reads)]
        found = [ticket.result().ids for ticket in tickets]
        assert found == [plain.submit(request).result().ids for request in (writes, reads)]
    assert max(beside) == 2


def test_a_row_that_outgrows_its_slot_is_moved_between_loops(
    fresh: Make, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "JOINED", slots.Lengths(32, 2))
    engine = fresh(ENDLESS)
    warm(engine)
    for n in (3, 17, 30):
        assert engine.submit(Write(random_ids(n), 200)).result().ids == generate(
            ENDLESS, random_ids(n), 200
        )
    assert max(lengths) > 20


def test_the_last_place_of_a_slot_is_left_free(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What padding writes lies there, in forwards together with other rows."""
    monkeypatch.setattr(slots, "JOINED", slots.Lengths(32, 2))
    ends: list[int] = []
    decode = Traces.decode

    def noting(self: Traces, batch: Batch, most: int, stops: Tensor) -> Any:
        held = [(r.slot.length, len(r.slot.ids) + r.remaining) for r in batch.rows]
        ends.extend(length - (read + most - 1) for length, read in held)  # the last is not read
        return decode(self, batch, most, stops)

    monkeypatch.setattr(Traces, "decode", noting)
    engine = fresh(ENDLESS)
    warm(engine)
    for n in (3, 17, 30):
        engine.submit(Write(random_ids(n), 200)).result()
    assert min(ends) == 1


def test_a_prompt_is_read_and_gone_on_from_in_one_call(fresh: Make, lengths: list[int]) -> None:
    engine, plain = fresh(ENDLESS), fresh(ENDLESS, engine="eager")
    for n in range(3):  # proven to read as many, and to go on
        engine.submit(Write(random_ids(34, seed=n), 30)).result()
    lengths.clear()
    request = Write(random_ids(34, seed=9), 30)
    found, wanted = engine.submit(request).result(), plain.submit(request).result()
    assert lengths == [30]
    assert (found.ids, found.fed, found.finish) == (wanted.ids, wanted.fed, "length")
    assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
    assert (found.pace, wanted.pace > 0) == (0, True)  # nobody knows how long a token took


@pytest.mark.parametrize("seen", [True, False], ids=["watched", "sampled"])
def test_tokens_that_somebody_watches_or_draws_come_one_by_one(
    seen: bool, fresh: Make, lengths: list[int]
) -> None:
    engine, heard = fresh(ENDLESS), []
    warm(engine)
    lengths.clear()
    sampling = Sampling() if seen else Sampling(temperature=0.8, seed=3)
    ticket = engine.submit(Write(IDS, 40, sampling=sampling), heard.append if seen else None)
    written = ticket.result().ids
    assert lengths == []
    assert heard == (written if seen else [])


def test_a_new_request_and_a_cancelled_one_are_seen_within_a_token(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loop is held at its beginning until the request is there."""
    loops, arrived, made = [], threading.Event(), traces.loop_of
    arrived.set()

    def held(*args: Any) -> Any:
        loop = made(*args)

        def run(*args: Any) -> Any:
            loops.append(args[6])
            if len(loops) == 1:
                arrived.wait(60)
            ids, logprobs = loop(*args)
            loops[-1] = len(ids)
            return ids, logprobs

        return run

    monkeypatch.setattr(traces, "loop_of", held)
    engine = fresh(ENDLESS, max_slots=3)
    warm(engine)
    loops.clear()
    arrived.clear()
    first = engine.submit(Write(IDS, 400))
    while not loops:
        pass
    second = engine.submit(Write(random_ids(9), 3))
    arrived.set()
    assert second.result().ids == generate(ENDLESS, random_ids(9), 3)
    assert loops[0] == 1
    assert not first.future.done()
    first.cancel()
    with pytest.raises(RequestCancelledError):
        first.result()


def test_no_loop_runs_further_than_was_compared(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace that is right up to 64 positions and wrong beyond is found before it is believed."""
    made = traces.script_of

    def wrong(function: Any, example: Any) -> Any:
        def beyond(tokens: Tensor, bounds: Tensor, *rest: Tensor) -> Tensor:
            found = function(tokens, bounds, *rest)
            return found + (bounds[:, 4].max() > 64) * torch.arange(found.shape[-1])

        return made(beyond, example)

    monkeypatch.setattr(traces, "script_of", wrong)
    engine = fresh(ENDLESS)
    assert engine.submit(Write(IDS, 100)).result().ids == generate(ENDLESS, IDS, 100)
    found = schedulers[-1].backend.faster  # type: ignore[attr-defined]
    assert found.forwards > 20
    assert "standard deviations" in found.why_not


def test_where_no_loop_can_be_made_tokens_come_one_by_one(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr(decode_loop, "SOURCE", "def decode(: {there}")
    engine = fresh(ENDLESS)
    warm(engine)
    assert engine.submit(Write(IDS, 60)).result().ids == generate(ENDLESS, IDS, 60)
    assert schedulers[-1].backend.faster.why_not is None  # type: ignore[attr-defined]
    assert not any(lengths)
