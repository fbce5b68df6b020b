"""A request while it is being worked on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langgraph_arbitrage.engine.constraint import Constraint
from langgraph_arbitrage.engine.requests import Finish, Reading, Score, Write, Written
from langgraph_arbitrage.engine.slots import Arena, Slot
from langgraph_arbitrage.engine.step_ends import StepEnds
from langgraph_arbitrage.engine.ticket import Ticket

__all__ = ["Batch", "Row", "by_arena"]

PIECE = 48  # tokens of a proposal that are verified at first


class Row:
    """One sequence: its tokens, how many of them are in the cache, what it has found."""

    def __init__(
        self,
        ticket: Ticket[Any],
        ends: StepEnds | None = None,
        trailing: int = 1,
        unread: int = 0,
        constraint: Constraint | None = None,
        proposal: Sequence[int] = (),
    ) -> None:
        self.ticket = ticket
        self.constraint = constraint
        self.trailing = trailing
        """Positions at the end whose logits are wanted, all of them in the last chunk."""
        self.request: Write | Score = ticket.request
        # Those at the end that are scored but need not be read themselves.
        self.tokens = list(ticket.request.ids)[: len(ticket.request.ids) - unread]
        self.prompt_length = len(self.tokens)
        self.proposal: tuple[int, ...] = ()
        """What may be written next; read with the prompt, until it is settled."""
        self.kept = 0
        self._proposed = tuple(proposal)  # what is not under way
        if proposal:
            self._propose()
        self.ends = ends
        self.hand = 0
        """Whose row it is."""
        self.slot: Slot
        self.cached = 0
        self.fed = 0
        self.logprobs: list[float] = []
        self.batch: Batch | None = None
        """That whose forward is under way."""
        self.forwards = 0.0
        """Seconds of the forwards before, its share of each."""
        self._read: tuple[int, float] | None = None  # tokens and seconds when decoding began
        self._paced = True
        if isinstance(self.request, Write):
            self.step_start = self.prompt_length - self.request.begun
            self._draw_as_written()

    def _draw_as_written(self) -> None:
        """Set the random stream behind the step's tokens: one number each, whoever wrote them."""
        request = self.request
        assert isinstance(request, Write)  # noqa: S101 - scores never sample
        self.random = random.Random(request.sampling.seed)
        for _ in range(request.begun + len(self.logprobs)):
            self.random.random()

    def _propose(self) -> None:
        """Have the next piece of the proposal verified: after the first as much as was kept so far.

        So what is read for nothing has a bound, also where a draft's step does not end.
        """
        length = max(PIECE, self.kept)
        self.proposal, self._proposed = self._proposed[:length], self._proposed[length:]
        self.tokens += self.proposal[:-1]  # the last one is judged where that before it is read
        self.trailing = len(self.proposal)

    def take(self, slot: Slot, cached: int) -> None:
        """Begin in a slot that holds the first `cached` tokens."""
        self.slot = slot
        self.cached = min(cached, len(self.tokens) - self.trailing)
        del slot.ids[self.cached :]

    @property
    def remaining(self) -> int:
        """Tokens that are known and not fed yet; at least 1 until the row is done."""
        return len(self.tokens) - len(self.slot.ids)

    def chunk(self, limit: int) -> int:
        """Tokens to feed next; the last chunk holds every position whose logits are wanted."""
        if self.remaining <= max(limit, self.trailing):
            return self.remaining
        return min(limit, self.remaining - self.trailing)

    def wanted(self, count: int) -> int:
        """Trailing positions whose logits are wanted of a chunk of `count`."""
        return self.trailing if count == self.remaining else 0

    @property
    def writes_greedily(self) -> bool:
        """Whether its next tokens depend on nothing but the model, and nobody watches them come."""
        request = self.request
        return (
            isinstance(request, Write)
            and request.sampling.temperature == 0
            and not self.proposal
            and self.constraint is None
            and self.ticket.listener is None
        )

    def start_decoding(self, *, paced: bool = True) -> None:
        """What comes from here on is decoded, token by token.

        Args:
            paced: Whether a token's time is known: not where the same call has read the prompt.
        """
        if self._read is None:
            self._read = len(self.tokens), self.spent
            self._paced = paced

    def room(self, context: int | None) -> int:
        """Most tokens that it may write now."""
        request = self.request
        assert isinstance(request, Write)  # noqa: S101 - scores never write
        room = request.max_tokens - (len(self.tokens) - self.prompt_length)
        return room if context is None else min(room, context - len(self.tokens))

    def forget_unwritten(self) -> None:
        """Roll back what was read beyond the tokens that are written."""
        del self.slot.ids[len(self.tokens) - 1 :]

    def append(
        self, token: int, logprob: float, end_ids: frozenset[int], context: int | None
    ) -> Finish | None:
        """Take a new token; what it ends, if anything."""
        request = self.request
        assert isinstance(request, Write)  # noqa: S101 - scores never sample
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.start_decoding()
        if self.ticket.listener is not None:
            self.ticket.listener(token)
        if token in end_ids:
            return "end"
        if self.constraint is not None and self.constraint.complete:
            return "end"
        written = len(self.tokens) - self.prompt_length
        if self.ends is not None:
            before = self.tokens[self.step_start - 1]
            found = self.ends.found(before, self.tokens[self.step_start :], request.tail)
            if found:
                return found
        if written >= request.max_tokens:
            return "length"
        if context is not None and len(self.tokens) >= context:
            return "context"
        return None

    def extend(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take tokens that are known to end nothing."""
        self.tokens += tokens
        self.logprobs += logprobs

    def settle(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        end_ids: frozenset[int],
        context: int | None,
    ) -> Finish | None:
        """Keep the proposal up to the first token that the model would not have written.

        The model chooses by its own random stream, which knows nothing of the proposal: what it
        writes is the same with and without one, and so is its distribution.

        Args:
            tokens: The model's own choice in the place of each proposed token.
            logprobs: Their log-probabilities.
            end_ids: Tokens that end an answer.
            context: Most tokens that the model reads.

        Returns:
            What the step ended by, if it ended in what was kept or goes no further now.
        """
        request = self.request
        assert isinstance(request, Write)  # noqa: S101 - scores have no proposal
        proposal, self.proposal, self.trailing = self.proposal, (), 1
        del self.tokens[len(self.tokens) - len(proposal) + 1 :]
        finish: Finish | None = None
        for proposed, token, logprob in zip(proposal, tokens, logprobs, strict=True):
            finish = self.append(token, logprob, end_ids, context)
            self.kept += token == proposed
            if finish is not None or token != proposed:
                self._proposed = ()
                break
        self.forget_unwritten()  # the rest was another's
        self._draw_as_written()  # rolled back too
        self._read = len(self.tokens), self.spent
        if self._proposed:
            self._propose()
            return None
        return "settled" if finish is None and request.pauses else finish

    def written(self, finish: Finish) -> Written:
        """The answer of a `Write`."""
        return Written(
            ids=self.tokens[self.prompt_length :],
            logprobs=self.logprobs,
            finish=finish,
            fed=self.fed,
            cached=self.cached,
            kept=self.kept,
            seconds=self.ticket.seconds,
            spent=self.spent,
            pace=self._pace(),
        )

    @property
    def spent(self) -> float:
        """Seconds of its forwards until now, its share of each."""
        return self.forwards + (self.batch.share if self.batch is not None else 0.0)

    def _pace(self) -> float:
        tokens, seconds = self._read or (len(self.tokens), 0.0)
        decoded = len(self.tokens) - tokens
        return (self.spent - seconds) / decoded if decoded and self._paced else 0.0

    def reading(
        self,
        logits: Sequence[float] = (),
        logprobs: Sequence[float] = (),
        entropies: Sequence[float] = (),
    ) -> Reading:
        """The answer of a `Score`."""
        return Reading(
            logits=list(logits),
            logprobs=list(logprobs),
            entropies=list(entropies),
            fed=self.fed,
            cached=self.cached,
            seconds=self.ticket.seconds,
        )


class Batch:
    """Rows that go through the model together, and how many tokens of each."""

    def __init__(self, rows: list[Row], counts: list[int]) -> None:
        self.rows = rows
        self.counts = counts
        self.width = max(counts)
        """Most tokens of a row (Q); shorter rows are padded on the left."""
        self.keep = max(1, *(r.wanted(n) for r, n in zip(rows, counts, strict=True)))
        """Trailing positions whose logits some row wants."""
        self._began = 0.0

    @property
    def share(self) -> float:
        """Seconds of the forward until now, of a row."""
        return (time.perf_counter() - self._began) / len(self.rows)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """While its forward runs, until the logits are absorbed: each row is told its share."""
        self._began = time.perf_counter()
        for row in self.rows:
            row.batch = self
        try:
            yield
        finally:
            share = self.share
            for row in self.rows:
                row.forwards += share
                row.batch = None


def by_arena(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows with slots in one arena together, the shortest slots first."""
    found: dict[Arena, list[Row]] = {}
    for row in rows:
        found.setdefault(row.slot.arena, []).append(row)
    return [found[arena] for arena in sorted(found)]
