"""The next step, begun before it is asked for: while the graph and a router look at the last one.

Between two steps of an answer a request comes back from the graph. Where the next one will go on
from where this one ends, its row need not wait for that: it goes on in its slot. Whoever then asks
for just that step takes it over, written or under way; token for token it is the same.

A draft's step is likely to be accepted: the next one is begun where no other request and no other
model needs the core, and given up for any other request. Of a model that writes alone the next step
is certain to be wanted: it is begun whatever else runs, unless a request waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langgraph_arbitrage.engine.requests import Write, Written
from langgraph_arbitrage.engine.row import Row
from langgraph_arbitrage.engine.ticket import Ticket

__all__ = ["Ahead", "next_step"]

MOST = 64  # tokens of a step that nobody has asked for yet
KEPT = 256  # steps that are written, and may still be asked for
KEPT_IDS = 1_000_000  # ids that all of them go on from
ENDS = ("separator", "end", "context")  # that do not depend on how many tokens were allowed


def next_step(request: Write, written: Written) -> Write | None:
    """What will be asked next; None where that cannot be known or would not be the same."""
    known = request.ahead != "no" and written.finish == "separator"
    # A sampled step has a seed of its own, and stop strings begin in texts that it does not know.
    if not known or request.sampling.temperature or request.stop or request.grammar is not None:
        return None
    if len(written.ids) >= request.max_tokens:
        return None
    ids = [*request.ids, *written.ids]
    return replace(request, ids=ids, max_tokens=MOST, begun=0, proposal=())


class Ahead:
    """The rows of such steps, by the ids that they go on from. Only while holding the baton."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, ...], Row] = {}

    def begin(self, row: Row) -> None:
        """Have this row written without anybody waiting for it."""
        key = tuple(row.request.ids)
        self._give_up(key)
        self._rows[key] = row
        while len(self._rows) > 1 and self._is_full:
            self._give_up(next(iter(self._rows)))

    @property
    def _is_full(self) -> bool:
        return len(self._rows) > KEPT or sum(map(len, self._rows)) > KEPT_IDS

    def is_unasked(self, row: Row) -> bool:
        """Whether it was begun ahead, nobody has asked for it, and it was not given up."""
        return self._rows.get(tuple(row.request.ids)) is row

    def writes(self, ids: Sequence[int], hand: int) -> bool:
        """Whether a row of this hand goes on from these ids now. Also without the baton."""
        row = self._rows.get(tuple(ids))
        return row is not None and row.hand == hand and not row.ticket.future.done()

    def give_one_up(self) -> None:
        """Let the row that was begun first, of those that still run, end: its slot is needed."""
        running = (key for key, row in self._rows.items() if not row.ticket.future.done())
        if (key := next(running, None)) is not None:
            self._give_up(key)

    def asked(self, ticket: Ticket[Any]) -> Row | None:
        """The row that writes, or has written, what is asked for now.

        One that still runs answers this ticket. What was begun only for want of anything better is
        given up, unless it is this.
        """
        wanted, key = ticket.request, tuple(ticket.request.ids)
        row = self._rows.get(key)
        if row is not None and isinstance(wanted, Write) and ticket.listener is None:
            ended = row.ticket.future.done()
            if _same(row, wanted) and (not ended or _is_whole(row.ticket)):
                del self._rows[key]
                row.request = wanted
                if not ended:
                    row.ticket = ticket
                return row
        likely = [k for k, r in self._rows.items() if r.request.ahead == "likely"]  # type: ignore[union-attr]
        for other in {*likely, key}:
            self._give_up(other)
        return None

    def _give_up(self, key: tuple[int, ...]) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            row.ticket.cancel()


def _is_whole(ticket: Ticket[Any]) -> bool:
    """Whether it was written to an end of its own; one that failed is written again."""
    failed = ticket.future.exception() is not None
    return not failed and ticket.future.result().finish in ENDS


def _same(row: Row, wanted: Write) -> bool:
    begun = row.request
    assert isinstance(begun, Write)  # noqa: S101 - scores are not followed by steps
    room = wanted.max_tokens - (len(row.tokens) - row.prompt_length)
    enough = room >= (0 if row.ticket.future.done() else 1)
    greedy = wanted.sampling.temperature == 0
    alike = replace(wanted, max_tokens=begun.max_tokens, sampling=begun.sampling, ahead=begun.ahead)
    return enough and greedy and alike == begun
