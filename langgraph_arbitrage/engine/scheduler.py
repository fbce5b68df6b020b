"""Who runs: rows join and leave between tokens, and nobody waits for another's step to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from langgraph_arbitrage.engine.constraint import Constraint
from langgraph_arbitrage.engine.requests import Sampling, Score, Write
from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.sampler import choose
from langgraph_arbitrage.engine.step_ends import step_ends
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer
from langgraph_arbitrage.errors import GrammarError

__all__ = ["Backend", "Scheduler", "run_all"]


class Backend(Protocol):
    """Owns the model and its cache; turns batches into logits."""

    name: str

    def admit(self, row: Row, others: Sequence[Row]) -> bool:
        """Give the row a slot beside the others; False where it has to wait."""

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
        max_rows: int,
        *,
        classifies: bool = False,
    ) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.max_rows = max_rows
        self.classifies = classifies
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    def add(self, ticket: Ticket[Any]) -> None:
        """Queue a ticket: first come, first served."""
        request = ticket.request
        if isinstance(request, Score):
            trailing = 1 if self.classifies else len(request.ids) - request.start + 1
            self.waiting.append(Row(ticket, trailing=trailing))
            return
        ends = None
        if request.separators or request.stop or request.spans:
            ends = step_ends(self.tokenizer, request.separators, request.stop, request.spans)
        try:
            self.waiting.append(Row(ticket, ends, constraint=self._constraint(request)))
        except GrammarError as error:
            ticket.fail(error)

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
        self._admit()
        for batch in self.backend.batches(self.running):
            self._absorb(batch, self.backend.forward(batch))

    def fail(self, error: BaseException) -> None:
        """End everything with an error."""
        for row in [*self.running, *self.waiting]:
            row.ticket.fail(error)
        self.running.clear()
        self.waiting.clear()

    def _drop_cancelled(self) -> None:
        for row in [r for r in self.running if r.ticket.cancelled]:
            self._leave(row)
            row.ticket.fail()
        for row in [r for r in self.waiting if r.ticket.cancelled]:
            self.waiting.remove(row)
            row.ticket.fail()

    def _admit(self) -> None:
        for row in list(self.waiting):
            if len(self.running) >= self.max_rows:
                return
            if self.backend.admit(row, self.running):
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
            if isinstance(row.request, Write):
                writing.append(i)
            else:
                self._read(row, row.request, logits[i])
        if not writing:
            return
        rows = [batch.rows[i] for i in writing]
        last = logits[:, -1] if len(rows) == len(batch.rows) else logits[writing, -1]
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

    def _read(self, row: Row, request: Score, logits: Tensor) -> None:
        """Answer a `Score`: logits are [labels], or [keep, labels], or [keep, V]."""
        if self.classifies:
            labels = logits if logits.dim() == 1 else logits[-1]
            answer = row.reading(logits=labels.float().tolist())
        else:
            scored = torch.tensor(row.tokens[request.start :], device=logits.device)  # [n]
            spread = logits[-len(scored) - 1 : -1].float().log_softmax(dim=-1)  # [n, V]
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
