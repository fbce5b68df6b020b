"""Who runs: rows join and leave between tokens, and nobody waits for another's step to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from langgraph_arbitrage.engine.ahead import Ahead, next_step
from langgraph_arbitrage.engine.backend import Backend
from langgraph_arbitrage.engine.constraint import Constraint
from langgraph_arbitrage.engine.cores import Cores
from langgraph_arbitrage.engine.crew import Baton, Crew
from langgraph_arbitrage.engine.outcomes import Outcomes, stops_at
from langgraph_arbitrage.engine.requests import Reading, Score, Write, Written
from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.step_ends import step_ends
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer
from langgraph_arbitrage.errors import NotEnoughMemoryError

__all__ = ["Scheduler", "run_all"]

TOGETHER = 2  # tokens that several rows write at once: what one writes behind its end is lost
HOME = 3  # rows more that a hand may have and still get one whose beginning it holds


class Scheduler:
    """Takes tickets, runs their rows in batches, resolves their futures.

    One thread at a time: the hand that holds the baton, which only a backend lays down.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
        *,
        classifies: bool = False,
    ) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.context = context
        self.outcomes = Outcomes(end_ids, context, classifies)
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []
        self.baton = Baton()
        self.crew: Crew | None = None
        """Hands beside the first, where there are any."""
        self.ahead = Ahead()
        self._awake = {0}

    @property
    def rows(self) -> int:
        """Requests that run or wait."""
        return len(self.running) + len(self.waiting)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self.rows > 0

    def add(self, ticket: Ticket[Any]) -> None:
        """Queue a ticket: first come, first served. The first hand's next `step` calls its hand."""
        with self.baton:
            begun = self.ahead.asked(ticket)
            if begun is not None:
                if begun.ticket is not ticket:  # it is written already
                    self._hand_out(begun, ticket)
                return
        try:
            row = self._row(ticket)
        except Exception as error:  # of a grammar, of a tokenizer: nobody else's
            ticket.fail(error)
            return
        with self.baton:
            if self.rows >= self.backend.max_rows:
                self.ahead.give_one_up()
            self._queue(row)

    def _queue(self, row: Row) -> None:
        row.hand = self._hand_for(row)
        self.waiting.append(row)

    def _row(self, ticket: Ticket[Any]) -> Row:
        request = ticket.request
        if isinstance(request, Score):
            scored = len(request.ids) - request.start
            if self.outcomes.classifies or request.choices or not scored:
                return Row(ticket)
            # A token is judged where the one before it is read.
            return Row(ticket, trailing=scored, unread=1)
        ends = None
        if request.separators or request.stop or request.spans:
            ends = step_ends(self.tokenizer, request.separators, request.stop, request.spans)
        constraint, proposal = self._constraint(request), self._proposal(request)
        return Row(ticket, ends, constraint=constraint, proposal=proposal)

    def _hand_for(self, row: Row) -> int:
        """The hand with the fewest rows; but rather that which holds the row's beginning."""
        hands = 1 if self.crew is None else self.crew.hands(self.rows + 1)
        if hands == 1:
            return 0
        rows = [0] * hands
        for other in (*self.running, *self.waiting):
            if other.hand < hands:
                rows[other.hand] += 1
        home = self.backend.home(row.tokens)
        return min(range(hands), key=lambda hand: rows[hand] - HOME * (hand == home))

    def _proposal(self, request: Write) -> Sequence[int]:
        """What of a proposed step can be verified: by a cache that rolls back, without grammar."""
        if request.grammar is not None or self.backend.name != "slot":
            return ()
        room = request.max_tokens
        if self.context is not None:
            room = min(room, self.context - len(request.ids))
        return request.proposal[:room]

    def _constraint(self, request: Write) -> Constraint | None:
        grammar = request.grammar
        if grammar is None:
            return None
        room = grammar.room
        if self.context is not None:
            room = min(room, self.context - len(request.ids))
        return Constraint(self.tokenizer, self.outcomes.end_ids, grammar, request.ids, room)

    def step(self, hand: int = 0, cores: Cores | None = None) -> bool:
        """Let rows go and come, then feed every running row of a hand once.

        Returns:
            Whether some of them go on; else the hand is woken when there is more to do.
        """
        with self.baton:
            self._awake.add(hand)
            if hand and self.crew is not None and self.crew.retired:
                self._hand_over(hand)
                return False
            self._drop_cancelled(hand)
            self._make_room(hand)
            if self.waiting:
                self._admit(hand)
            self._call_others(hand)
            rows = self._rows_of(hand)
            for batch in self.backend.batches(rows):
                if cores is not None:
                    cores.use(len(batch.rows) if self._alone(hand) else 0)  # else each has a core
                with batch.forward():
                    self._feed(batch, alone=len(rows) == 1)
            self._call_others(hand)
            goes_on = bool(self._rows_of(hand) or (self.waiting and not self.running))
            if not goes_on:
                self._awake.discard(hand)
            return goes_on

    def _rows_of(self, hand: int) -> list[Row]:
        if self.crew is None:
            return self.running
        return [row for row in self.running if row.hand == hand]

    def _alone(self, hand: int) -> bool:
        return self.crew is None or all(row.hand == hand for row in self.running)

    def _hand_over(self, hand: int) -> None:
        """Leave all rows to the first hand."""
        for row in (*self.running, *self.waiting):
            if row.hand == hand:
                row.hand = 0
        self._awake.discard(hand)
        self._call(0)

    def _call_others(self, hand: int) -> None:
        """Let other hands know whose rows wait: a slot may be free now."""
        for other in {row.hand for row in self.waiting} - {hand}:
            self._call(other)

    def _call(self, hand: int) -> None:
        """Wake a hand, or have it look around soon."""
        if self.crew is None:
            return
        if hand not in self._awake:
            self._awake.add(hand)
            self.crew.wake(hand)
        elif len(self.running) < self.backend.max_rows:
            self.crew.call(hand)

    def fail(self, error: BaseException) -> None:
        """End everything with an error."""
        lost = [*self.running, *self.waiting]
        for row in tuple(self.running):
            self._leave(row)
        self.waiting.clear()
        for row in lost:
            row.ticket.fail(error)

    def _drop_cancelled(self, hand: int) -> None:
        for row in [r for r in self._rows_of(hand) if r.ticket.cancelled]:
            self._leave(row)
            row.ticket.fail()
        for row in [r for r in self.waiting if r.ticket.cancelled]:
            self.waiting.remove(row)
            row.ticket.fail()

    def _make_room(self, hand: int) -> None:
        """Rows for which there is no memory beside the others wait again, first in the queue."""
        for row in list(self._rows_of(hand)):
            try:
                self.backend.make_room(row)
            except NotEnoughMemoryError:
                self._leave(row)
                self.waiting.appendleft(row)

    def _admit(self, hand: int) -> None:
        """First come, first served: rows before those of this hand keep a place for theirs."""
        kept = 0
        for row in list(self.waiting):
            if len(self.running) + kept >= self.backend.max_rows:
                return
            if row.hand != hand:
                kept += 1
                continue
            try:
                admitted = self.backend.admit(row, self.running)
            except NotEnoughMemoryError as error:
                if self.running:
                    return  # once they have left there may be
                self.waiting.remove(row)
                row.ticket.fail(error)
                continue
            if admitted:
                self.waiting.remove(row)
                self.running.append(row)

    def _leave(self, row: Row) -> None:
        self.running.remove(row)
        self.backend.leave(row)

    def _answer(self, row: Row, answer: Written | Reading) -> None:
        following = self._following(row, answer)
        if following is None:
            self._leave(row)
        row.ticket.resolve(answer)
        if following is not None:  # in the same slot: it holds all but the last token
            begun = self._begun(following)
            begun.hand = row.hand
            begun.take(row.slot, len(row.slot.ids))
            self.running[self.running.index(row)] = begun

    def _hand_out(self, row: Row, ticket: Ticket[Any]) -> None:
        """Answer with a step that was written before it was asked for."""
        answer = replace(row.ticket.result(0), seconds=ticket.seconds)
        row.ticket = ticket
        ticket.resolve(answer)
        following = self._following(row, answer)
        if following is not None:
            self._queue(self._begun(following))

    def _following(self, row: Row, answer: Written | Reading) -> Write | None:
        """The step to begin before it is asked for."""
        if isinstance(answer, Reading) or not self.backend.goes_on or self.ahead.is_unasked(row):
            return None
        request, ticket = row.request, row.ticket
        assert isinstance(request, Write)  # noqa: S101 - by its answer
        if ticket.listener is not None or ticket.cancelled:
            return None
        certain = request.ahead == "certain"
        others_first = bool(self.waiting) if certain else not self._idles(row)
        if others_first:
            return None
        following = next_step(request, answer)
        full = following and self.context is not None and len(following.ids) >= self.context
        return None if full else following

    def _idles(self, row: Row) -> bool:
        """Whether the core has nothing else to do once this row is answered."""
        others = self.rows - (row in self.running)
        return not others and self.crew is not None and self.crew.has_time

    def _begun(self, request: Write) -> Row:
        row = self._row(Ticket(request))
        if (crew := self.crew) is not None:
            row.ticket.halt = lambda: crew.call(row.hand)
        self.ahead.begin(row)
        return row

    def _feed(self, batch: Batch, *, alone: bool) -> None:
        """Feed a batch, `alone` where it is the hand's only row; answer the rows that end by it."""
        written = self._decoded(batch, alone=alone)
        if written:
            answers = self.outcomes.of_loop(batch, written)
        else:
            answers = self.outcomes.of_logits(batch, self.backend.forward(batch))
        for row, answer in answers:
            self._answer(row, answer)

    def _decoded(self, batch: Batch, *, alone: bool) -> list[tuple[list[int], list[float]]]:
        """Several tokens of each row at once; none where somebody needs to look at each.

        A row that has the hand to itself writes up to its end, and may read its prompt before.
        """
        rows = batch.rows
        own = any(row.hand == rows[0].hand for row in self.waiting)
        waits = own and len(self.running) < self.backend.max_rows
        whole = alone and batch.counts[0] == rows[0].remaining  # all it reads, by this forward
        ready = whole or all(row.remaining == 1 for row in rows)
        if waits or not ready or not all(row.writes_greedily for row in rows):
            return []
        if batch.width == 1:
            for row in rows:
                row.start_decoding()
        room = min(row.room(self.context) for row in rows)
        ends = rows[0].ends if len(rows) == 1 else None
        stops = ends.table if ends is not None else partial(stops_at, self.outcomes.end_ids)
        return self.backend.decode(batch, room if alone else min(room, TOGETHER), stops)


def run_all(scheduler: Scheduler, tickets: Sequence[Ticket[Any]]) -> list[Any]:
    """Run tickets to their end on the caller's thread (the capability check does so)."""
    for ticket in tickets:
        scheduler.add(ticket)
    while scheduler.busy:
        scheduler.step()
    return [t.result(0) for t in tickets]
