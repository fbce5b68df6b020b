"""The fallback runner: runs one sequence at a time, with the model's own cache or without a cache.

It is used for models that the batched runner does not support: models whose cache cannot be rolled
back (recurrent layers), models without a cache (encoders), and models that fail the load check.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.kv_cache import common_prefix
from langgraph_arbitrage.engine.rope import depends_on_history, reset_dynamic_rope, rope_switch
from langgraph_arbitrage.engine.sequence import Batch, Slot
from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["PlainRunner", "SingleSlot"]

# Maximum number of tokens that are computed one by one after a cached prefix. For more tokens,
# computing the whole prompt at once is faster.
MAX_CONTINUED = 32


class SingleSlot:
    """The single slot of a `PlainRunner`. It cannot be rolled back."""

    max_slots = 1
    shaped = True

    def __init__(self) -> None:
        self.slot = Slot(0, [])
        self.model_cache: Any = None
        """The model's own cache object."""

    def allocate(self, ids: Sequence[int], limit: int) -> Slot | None:
        """Return the slot, or None if it is busy.

        The slot keeps its contents if they are a prefix of `ids`, have at most `limit` tokens, and
        are followed by at most `MAX_CONTINUED` tokens. Otherwise the slot is cleared.
        """
        if self.slot.busy:
            return None
        cached = len(self.slot.tokens)
        continues = cached <= limit and common_prefix(self.slot.tokens, ids) == cached
        if not continues or len(ids) - cached > MAX_CONTINUED:
            self.clear()
        self.slot.busy = True
        return self.slot

    def reserve(self, tokens: int) -> None:
        """Do nothing, because the model's own cache grows automatically."""

    def release(self, slot: Slot) -> None:
        """Mark the slot as free. The next request can reuse its contents as a prefix."""
        slot.busy = False

    def cached(self, ids: Sequence[int]) -> int:
        """Return the length of the prefix of `ids` in the slot."""
        return common_prefix(self.slot.tokens, ids)

    def clear(self) -> None:
        """Delete the contents of the slot."""
        self.slot.tokens.clear()
        self.model_cache = None


class PlainRunner:
    """Runs one sequence at a time with the model's ordinary forward.

    Args:
        model: The model, with its original attention function.
        cached: Whether the model has a cache. Without a cache, each forward computes the whole
            sequence.
    """

    name = "plain"
    verifies_drafts = False
    tokens_per_forward = 1 << 30  # a recurrent layer must compute a prompt at once

    def __init__(self, model: PreTrainedModel, *, cached: bool) -> None:
        self.model = model
        self.cached = cached
        self.cache = SingleSlot()
        self.rope_switch = rope_switch(model.config)
        self._resets_rope = depends_on_history(model.config)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"

    def forward(self, batch: Batch) -> Tensor:
        """Compute the tokens of a batch of one sequence.

        Returns:
            Logits of the last `batch.logit_counts[0]` positions: [W, V], or [1, labels] for a
            classifier.
        """
        (sequence,), (count,) = batch.sequences, batch.counts
        if not sequence.slot.tokens:
            self.cache.model_cache = None
        start, logit_count = len(sequence.slot.tokens), batch.logit_counts[0]
        tokens = sequence.tokens[start : start + count]
        if not self.cached:
            sequence.computed_tokens += count
            return self._logits(sequence.tokens, logit_count)
        # A recurrent layer that already has a state accepts only one token per forward.
        inputs = [[t] for t in tokens] if start else [tokens]
        logits = torch.cat([self._logits(chunk, logit_count) for chunk in inputs])
        sequence.mark_computed(count)
        return logits[len(logits) - logit_count :]

    def _logits(self, tokens: list[int], logit_count: int) -> Tensor:
        """Run the model on `tokens`. Returns the logits of the last `logit_count` positions."""
        kwargs: dict[str, Any] = {}
        if self._resets_rope:
            reset_dynamic_rope(self.model)
        if self.cached:
            kwargs = {self._cache_name: self.cache.model_cache, "use_cache": True}
        output = self.model(input_ids=on_device([tokens], self.model.device), **kwargs)
        if self.cached:
            self.cache.model_cache = getattr(output, self._cache_name)
        logits: Tensor = output.logits[0]
        return logits[None] if logits.dim() == 1 else logits[max(0, len(logits) - logit_count) :]
