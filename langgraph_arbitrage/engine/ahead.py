"""The next step, begun before it is asked for: while a router judges the one before.

A draft's step is likely to be accepted, and the next one then goes on from it. Until somebody asks
for that, a router reads, and the graph goes through three nodes. Where no other request and no
other model needs the core, the draft writes on meanwhile. Whoever then asks for just that step has
it sooner, and token for token the same; any other request ends it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from langgraph_arbitrage.engine.requests import Write, Written
from langgraph_arbitrage.engine.row import Row
from langgraph_arbitrage.engine.ticket import Ticket

__all__ = ["Ahead", "next_step"]

MOST = 64  # tokens of a step that nobody has asked for yet
ENDS = ("separator", "end", "context")  # that do not depend on how many tokens were allowed


def next_step(request: Write, written: Written) -> Write | None:
    """What is likely to be asked next; None where that cannot be known or would not be the same."""
    known = request.ahead and written.finish == "separator"
    # A sampled step has a seed of its own, and stop strings begin in texts that it does not know.
    if not known or request.sampling.temperature or request.stop or request.grammar is not None:
        return None
    ids = [*request.ids, *written.ids]
    return replace(request, ids=ids, max_tokens=MOST, begun=0, proposal=())


class Ahead:
    """The row of such a step, if there is one. Only while holding the baton."""

    def __init__(self) -> None:
        self._row: Row | None = None

    def begin(self, row: Row) -> None:
        """Have this row written without anybody waiting for it."""
        self._row = row

    def has(self, row: Row) -> bool:
        """Whether nobody has asked for this row."""
        return self._row is row

    def asked(self, ticket: Ticket[Any]) -> Row | None:
        """The row that writes, or has written, what is asked for now; else it is given up.

        One that still runs answers this ticket.
        """
        row, self._row = self._row, None
        if row is None:
            return None
        wanted = ticket.request
        if isinstance(wanted, Write) and ticket.listener is None and _same(row, wanted):
            written = row.ticket.future
            if not written.done():
                row.ticket, row.request = ticket, wanted
                return row
            if written.result().finish in ENDS:
                return row
        row.ticket.cancel()
        return None


def _same(row: Row, wanted: Write) -> bool:
    begun = row.request
    assert isinstance(begun, Write)  # noqa: S101 - scores are not followed by steps
    room = wanted.max_tokens - (len(row.tokens) - row.prompt_length)
    enough = room >= (0 if row.ticket.future.done() else 1)
    greedy = wanted.sampling.temperature == 0
    alike = replace(wanted, max_tokens=begun.max_tokens, sampling=begun.sampling)
    return enough and greedy and alike == begun
