"""What a forward has found: logits and tokens become the answers of those rows that end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from langgraph_arbitrage.engine.requests import Reading, Sampling, Score, Write, Written
from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.sampler import choose
from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["Outcomes", "stops_at"]

Answers = Iterator[tuple[Row, Written | Reading]]
"""Rows that are done, one after the other, each as soon as it is known."""


@dataclass(frozen=True)
class Outcomes:
    """How a model's answers end."""

    end_ids: frozenset[int]
    """Tokens that end an answer."""
    context: int | None
    """Most tokens that the model reads; None without a limit."""
    classifies: bool
    """Whether it answers with labels."""

    # --- of a forward --------------------------------------------------------------------

    def of_logits(self, batch: Batch, logits: Tensor) -> Answers:
        """Of rows that have read all they know: tokens are chosen, scores are read.

        Args:
            batch: What was fed.
            logits: Of the trailing positions, [B, keep, V], or [B, labels].
        """
        writing = []
        for i, row in enumerate(batch.rows):
            if row.slot.ids and row.remaining:
                continue  # more of the prompt is to come
            if row.proposal:
                yield from self._verified(row, logits[i])
            elif isinstance(row.request, Write):
                writing.append(i)
            else:
                yield row, self._read(row, row.request, logits[i])
        if writing:
            rows = [batch.rows[i] for i in writing]
            last = logits[:, -1]
            if len(rows) < len(batch.rows):
                last = last.index_select(0, on_device(writing, logits.device))
            yield from self._chosen(rows, last)

    def _chosen(self, rows: Sequence[Row], logits: Tensor) -> Answers:
        """Of rows that write: a token each, from logits [B, V]."""
        for row, scores in zip(rows, logits, strict=True):
            if row.constraint is not None:
                row.constraint.restrict(scores)
        tokens, logprobs = choose(logits, [_sampling(r) for r in rows], [r.random for r in rows])
        for i, row in enumerate(rows):
            token, logprob = tokens[i], logprobs[i]
            if row.constraint is not None:
                token, logprob = row.constraint.take(token)
            finish = row.append(token, logprob, self.end_ids, self.context)
            if finish is not None:
                yield row, row.written(finish)

    def _verified(self, row: Row, logits: Tensor) -> Answers:
        """A proposed step, settled from the logits where each of its tokens was to be chosen."""
        count = len(row.proposal)
        samplings, randoms = [_sampling(row)] * count, [row.random] * count
        tokens, logprobs = choose(logits[-count:], samplings, randoms)
        finish = row.settle(tokens, logprobs, self.end_ids, self.context)
        if finish is not None:
            yield row, row.written(finish)

    def _read(self, row: Row, request: Score, logits: Tensor) -> Reading:
        """The answer of a `Score`: logits are [labels], or [keep, labels], or [keep, V]."""
        last = logits if logits.dim() == 1 else logits[-1]
        if self.classifies:
            return row.reading(logits=last.float().tolist())
        if request.choices:
            return row.reading(logits=last[list(request.choices)].float().tolist())
        scored = torch.tensor(
            request.ids[request.start :], dtype=torch.long, device=logits.device
        )  # [n]
        spread = logits[len(logits) - len(scored) :].float().log_softmax(dim=-1)  # [n, V]
        return row.reading(
            logprobs=spread.gather(-1, scored[:, None]).squeeze(-1).tolist(),
            entropies=(-(spread.exp() * spread).sum(dim=-1)).tolist(),
        )

    # --- of a loop -----------------------------------------------------------------------

    def of_loop(self, batch: Batch, written: list[tuple[list[int], list[float]]]) -> Answers:
        """Of rows that a loop wrote tokens for; what one wrote behind its end is taken back.

        Args:
            batch: What was fed.
            written: Tokens and log-probabilities of each row.
        """
        alone = len(batch.rows) == 1
        for row, (tokens, logprobs) in zip(batch.rows, written, strict=True):
            row.start_decoding(paced=batch.width == 1)
            known = self._known(row, tokens) if alone else 0
            row.extend(tokens[:known], logprobs[:known])
            for token, logprob in zip(tokens[known:], logprobs[known:], strict=True):
                finish = row.append(token, logprob, self.end_ids, self.context)
                if finish is not None:
                    row.forget_unwritten()
                    yield row, row.written(finish)
                    break

    def _known(self, row: Row, tokens: list[int]) -> int:
        """How many of the tokens end nothing: a single row's loop goes on behind no others.

        The row may have been taken over meanwhile, by a request that wants fewer.
        """
        known = max(0, min(len(tokens), row.room(self.context)) - 1)
        return known if self.end_ids.isdisjoint(tokens[:known]) else 0


@lru_cache(maxsize=64)
def stops_at(ids: frozenset[int], vocabulary: int) -> Tensor:
    """A table of these tokens for a loop to stop behind, [V]."""
    table = torch.zeros(vocabulary, dtype=torch.bool)
    table[[token for token in ids if token < vocabulary]] = True
    return table


def _sampling(row: Row) -> Sampling:
    assert isinstance(row.request, Write)  # noqa: S101 - scores never sample
    return row.request.sampling
