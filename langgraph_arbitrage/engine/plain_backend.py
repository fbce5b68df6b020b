"""The fallback: one sequence at a time, with the model's own cache or with none.

For models whose cache cannot be cut back (recurrent layers), that disagree with the slot engine,
or that take no cache at all (encoders).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.row import Batch, Row
from langgraph_arbitrage.engine.slots import Arena, Slot, common_prefix

__all__ = ["PlainBackend"]

CATCH_UP = 32  # tokens read one by one into a cache that is not empty, before starting afresh


class PlainBackend:
    """Feeds one row at a time; a rollback reads everything again."""

    name = "plain"
    goes_on = False
    max_rows = 1

    def __init__(self, model: PreTrainedModel, *, cached: bool, reuse: bool = True) -> None:
        self.model = model
        self.cached = cached
        self.reuse = reuse
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"
        self._slot = Slot(Arena(0), index=0)
        self._cache: Any = None

    def decode(
        self, batch: Batch, most: int, stops: Callable[[int], Tensor]
    ) -> list[tuple[list[int], list[float]]]:
        """Nothing: each token takes a forward of its own."""
        return []

    def home(self, ids: Sequence[int]) -> int | None:
        """Its one slot is the first hand's."""
        return 0

    def admit(self, row: Row, others: Sequence[Row]) -> bool:
        """Give the row the only slot."""
        held = len(self._slot.ids)
        useful = row.prompt_length - row.trailing
        grows = common_prefix(self._slot.ids, row.tokens) == held <= useful
        if not grows or len(row.tokens) - held > CATCH_UP or not self.reuse:
            self.forget()
        row.take(self._slot, len(self._slot.ids))
        return True

    def make_room(self, row: Row) -> None:
        """Its cache grows by itself."""

    def leave(self, row: Row) -> None:
        """The row is done; what was read stays for a request that goes on from there."""

    def forget(self) -> None:
        """Drop the cache."""
        self._slot.ids.clear()
        self._cache = None

    def batches(self, rows: Sequence[Row]) -> list[Batch]:
        """The one row, with all that it has to read."""
        return [Batch([row], [row.remaining]) for row in rows]

    def forward(self, batch: Batch) -> Tensor:
        """Feed the row; logits of its trailing positions, [1, keep, V], or [1, labels]."""
        (row,), (count,) = batch.rows, batch.counts
        held, keep = len(self._slot.ids), batch.keep
        tokens = row.tokens[held : held + count]
        row.fed += count
        if not self.cached:
            return self._logits(tokens, keep)
        # A recurrent layer that holds a state takes one token at a time.
        pieces = [tokens] if not held else [[t] for t in tokens]
        logits = torch.cat([self._logits(piece, keep) for piece in pieces], dim=1)
        self._slot.ids.extend(tokens)
        return logits[:, -keep:]

    def _logits(self, tokens: list[int], keep: int) -> Tensor:
        kwargs: dict[str, Any] = {}
        if self.cached:
            kwargs = {self._cache_name: self._cache, "use_cache": True}
        output = self.model(input_ids=torch.tensor([tokens], device=self.model.device), **kwargs)
        if self.cached:
            self._cache = getattr(output, self._cache_name)
        logits: Tensor = output.logits
        return logits[:, -keep:] if logits.dim() == 3 else logits
