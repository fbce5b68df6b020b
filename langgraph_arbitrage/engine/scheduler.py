"""Who runs: rows join and leave between tokens, and nobody waits for another's step to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from langgraph_arbitrage.engine.constraint import Constraint
from langgraph_arbitrage.engine.cores import Cores
from langgraph_arbitrage.engine.requests import Sampling, Score, Write
from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.sampler import choose
from langgraph_arbitrage.engine.step_ends import step_ends
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer
from langgraph_arbitrage.engine.transfer import on_device
from langgraph_arbitrage.errors import GrammarError, NotEnoughMemoryError

__all__ = ["Backend", "Scheduler", "run_all"]


class Backend(Protocol):
    """Owns the model and its cache; turns batches into logits."""

    name: str

    @property
    def max_rows(self) -> int:
        """Most rows that can run at a time."""

    def admit(self, row: Row, others: Sequence[Row]) -> bool:
        """Give the row a slot beside the others; False where it has to wait.

        Raises:
            NotEnoughMemoryError: There is no memory for it beside them.
        """

    def make_room(self, row: Row) -> None:
        """See that a running row can go on.

        Raises:
            NotEnoughMemoryError: There is no memory for that beside the others.
        """

    def leave(self, row: Row) -> None:
        """Free the row's slot."""

    def batches(self, rows: Sequence[Row]) -> list[Batch]:
        """What goes through the model next."""

    def forward(self, batch: Batch) -> Tensor:
        """Feed a batch; logits of its trailing positions, [B, keep, V], or [B, labels]."""


class Scheduler:
    """Takes tickets, runs their rows in batches, resolves their futures. Single-threaded."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
        *,
        classifies: bool = False,
        cores: Cores | None = None,
    ) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.classifies = classifies
        self.cores = cores
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []

    @property
    def rows(self) -> int:
        """Requests that run or wait."""
        return len(self.running) + len(self.waiting)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self.rows > 0

    def add(self, ticket: Ticket[Any]) -> None:
        """Queue a ticket: first come, first served."""
        request = ticket.request
        if isinstance(request, Score):
            scored = len(request.ids) - request.start
            if self.classifies or request.choices or not scored:
                self.waiting.append(Row(ticket))
            else:  # a token is judged where the one before it is read
                self.waiting.append(Row(ticket, trailing=scored, unread=1))
            return
        ends = None
        if request.separators or request.stop or request.spans:
            ends = step_ends(self.tokenizer, request.separators, request.stop, request.spans)
        try:
            constraint, proposal = self._constraint(request), self._proposal(request)
            self.waiting.append(Row(ticket, ends, constraint=constraint, proposal=proposal))
        except GrammarError as error:
            ticket.fail(error)

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
        return Constraint(self.tokenizer, self.end_ids, grammar, request.ids, room)

    def step(self) -> None:
        """Let rows go and come, then feed every running row once."""
        self._drop_cancelled()
        self._make_room()
        if self.waiting:
            self._admit()
        for batch in self.backend.batches(self.running):
            if self.cores is not None:
                self.cores.use(len(batch.rows))
            with batch.forward():
                self._absorb(batch, self.backend.forward(batch))

    def fail(self, error: BaseException) -> None:
        """End everything with an error."""
        lost = [*self.running, *self.waiting]
        for row in tuple(self.running):
            self._leave(row)
        self.waiting.clear()
        for row in lost:
            row.ticket.fail(error)

    def _drop_cancelled(self) -> None:
        for row in [r for r in self.running if r.ticket.cancelled]:
            self._leave(row)
            row.ticket.fail()
        for row in [r for r in self.waiting if r.ticket.cancelled]:
            self.waiting.remove(row)
            row.ticket.fail()

    def _make_room(self) -> None:
        """Rows for which there is no memory beside the others wait again, first in the queue."""
        for row in list(self.running):
            try:
                self.backend.make_room(row)
            except NotEnoughMemoryError:
                self._leave(row)
                self.waiting.appendleft(row)

    def _admit(self) -> None:
        for row in list(self.waiting):
            if len(self.running) >= self.backend.max_rows:
                return
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

    def _absorb(self, batch: Batch, logits: Tensor) -> None:
        """Turn logits into tokens or readings, for rows that have read all they know."""
        writing = []
        for i, row in enumerate(batch.rows):
            if row.slot.ids and row.remaining:
                continue  # more of the prompt is to come
            if row.proposal:
                self._verify(row, logits[i])
            elif isinstance(row.request, Write):
                writing.append(i)
            else:
                self._read(row, row.request, logits[i])
        if not writing:
            return
        rows = [batch.rows[i] for i in writing]
        last = logits[:, -1]
        if len(rows) < len(batch.rows):
            last = last.index_select(0, on_device(writing, logits.device))
        for row, scores in zip(rows, last, strict=True):
            if row.constraint is not None:
                row.constraint.restrict(scores)
        tokens, logprobs = choose(last, [_sampling(r) for r in rows], [r.random for r in rows])
        for i, row in enumerate(rows):
            token, logprob = tokens[i], logprobs[i]
            if row.constraint is not None:
                token, logprob = row.constraint.take(token)
            finish = row.append(token, logprob, self.end_ids, self.context)
            if finish is not None:
                self._leave(row)
                row.ticket.resolve(row.written(finish))

    def _verify(self, row: Row, logits: Tensor) -> None:
        """Settle a proposed step from the logits where each of its tokens was to be chosen."""
        count = len(row.proposal)
        samplings, randoms = [_sampling(row)] * count, [row.random] * count
        tokens, logprobs = choose(logits[-count:], samplings, randoms)
        finish = row.settle(tokens, logprobs, self.end_ids, self.context)
        if finish is not None:
            self._leave(row)
            row.ticket.resolve(row.written(finish))

    def _read(self, row: Row, request: Score, logits: Tensor) -> None:
        """Answer a `Score`: logits are [labels], or [keep, labels], or [keep, V]."""
        last = logits if logits.dim() == 1 else logits[-1]
        if self.classifies:
            answer = row.reading(logits=last.float().tolist())
        elif request.choices:
            answer = row.reading(logits=last[list(request.choices)].float().tolist())
        else:
            scored = torch.tensor(
                request.ids[request.start :], dtype=torch.long, device=logits.device
            )  # [n]
            spread = logits[len(logits) - len(scored) :].float().log_softmax(dim=-1)  # [n, V]
            answer = row.reading(
                logprobs=spread.gather(-1, scored[:, None]).squeeze(-1).tolist(),
                entropies=(-(spread.exp() * spread).sum(dim=-1)).tolist(),
            )
        self._leave(row)
        row.ticket.resolve(answer)


def _sampling(row: Row) -> Sampling:
    assert isinstance(row.request, Write)  # noqa: S101 - scores never sample
    return row.request.sampling


def run_all(scheduler: Scheduler, tickets: Sequence[Ticket[Any]]) -> list[Any]:
    """Run tickets to their end on the caller's thread (the capability check does so)."""
    for ticket in tickets:
        scheduler.add(ticket)
    while scheduler.busy:
        scheduler.step()
    return [t.result(0) for t in tickets]
