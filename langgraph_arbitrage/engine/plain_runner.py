"""The fallback: one sequence at a time, with the model's own cache or with none.

For models whose cache cannot be rolled back (recurrent layers), that take no cache (encoders), or
whose logits differ from a plain forward on the batched runner.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.kv_cache import common_prefix
from langgraph_arbitrage.engine.sequence import Batch, Slot
from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["PlainRunner", "SingleSlot"]

CATCH_UP = 32  # tokens computed one by one into a cache that is not empty, before starting afresh


class SingleSlot:
    """The one slot of a model without batching; it never rolls back."""

    max_slots = 1
    shaped = True

    def __init__(self) -> None:
        self.slot = Slot(0, [])
        self.model_cache: Any = None
        """The model's own cache object."""

    def allocate(self, ids: Sequence[int], limit: int) -> Slot | None:
        """Take the slot unless it is busy; what it holds stays only if `ids` continue it.

        It cannot be rolled back: it starts afresh if it holds more than `limit` tokens.
        """
        if self.slot.busy:
            return None
        held = len(self.slot.tokens)
        continues = held <= limit and common_prefix(self.slot.tokens, ids) == held
        if not continues or len(ids) - held > CATCH_UP:
            self.clear()
        self.slot.busy = True
        return self.slot

    def reserve(self, tokens: int) -> None:
        """The model's own cache grows by itself."""

    def release(self, slot: Slot) -> None:
        """Free the slot; what was computed stays for a request that continues it."""
        slot.busy = False

    def cached(self, ids: Sequence[int]) -> int:
        """Leading tokens of `ids` that the slot holds."""
        return common_prefix(self.slot.tokens, ids)

    def clear(self) -> None:
        """Drop the model's cache."""
        self.slot.tokens.clear()
        self.model_cache = None


class PlainRunner:
    """Runs one sequence at a time by the model's ordinary forward.

    Args:
        model: The model, with the attention function that transformers chose.
        cached: Whether it keeps a cache between forwards.
    """

    name = "plain"
    verifies_drafts = False
    tokens_per_forward = 1 << 30  # a recurrent layer computes a prompt at once

    def __init__(self, model: PreTrainedModel, *, cached: bool) -> None:
        self.model = model
        self.cached = cached
        self.cache = SingleSlot()
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"

    def forward(self, batch: Batch) -> Tensor:
        """Logits of the sequence's wanted positions, [W, V], or [1, labels]."""
        (sequence,), (count,) = batch.sequences, batch.counts
        held, wanted = len(sequence.slot.tokens), batch.wanted[0]
        tokens = sequence.tokens[held : held + count]
        if not self.cached:
            sequence.computed_tokens += count
            return self._logits(sequence.tokens, wanted)
        # A recurrent layer that holds a state takes one token at a time.
        pieces = [[t] for t in tokens] if held else [tokens]
        logits = torch.cat([self._logits(piece, wanted) for piece in pieces])
        sequence.computed(count)
        return logits[len(logits) - wanted :]

    def _logits(self, tokens: list[int], wanted: int) -> Tensor:
        kwargs: dict[str, Any] = {}
        if self.cached:
            kwargs = {self._cache_name: self.cache.model_cache, "use_cache": True}
        output = self.model(input_ids=on_device([tokens], self.model.device), **kwargs)
        if self.cached:
            self.cache.model_cache = getattr(output, self._cache_name)
        logits: Tensor = output.logits[0]
        return logits[None] if logits.dim() == 1 else logits[max(0, len(logits) - wanted) :]
