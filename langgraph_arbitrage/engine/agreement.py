"""Does a faster forward compute what the eager one does? Asked of real batches, before its use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.row import Batch
from langgraph_arbitrage.engine.slot_cache import SlotCache

__all__ = ["Agreement"]

ROUNDING = {torch.float32: 0.005, torch.float16: 0.02, torch.bfloat16: 0.1}
"""How far it may be from eager, in standard deviations of the logits. Rounding of 32 layers is a
fifth of it and less; a token or a position that is wrong is several times as much."""
COARSE = 0.3  # quantized activations: a last bit that differs is rounded to another level


class Agreement:
    """Compares logits, and the keys and values that were written."""

    def __init__(self, cache: SlotCache, limit: float) -> None:
        self.cache = cache
        self.limit = limit
        """Most standard deviations."""

    @classmethod
    def of(cls, model: PreTrainedModel, cache: SlotCache) -> Agreement:
        """With the limit that suits a model."""
        quantized = getattr(model, "hf_quantizer", None) is not None
        return cls(cache, COARSE if quantized else ROUNDING.get(model.dtype, COARSE))

    def checked(
        self, batch: Batch, logits: Tensor, eager: Callable[[Batch], Tensor]
    ) -> tuple[Tensor, str | None]:
        """Compare with an eager forward of the same batch.

        Eager comes second: what it writes to the cache would hide what the other has not written.

        Returns:
            The eager logits, and what is wrong with the others, if anything.
        """
        wrote = self._written(batch)
        wanted = eager(batch)
        found = max(_apart(logits, wanted), _apart(wrote, self._written(batch)))
        if found <= self.limit:
            return wanted, None
        return wanted, (
            f"the first such forward is {found:.2g} standard deviations away from the eager "
            f"one, and {self.limit} is allowed"
        )

    def _written(self, batch: Batch) -> Tensor:
        """What the last layer holds where each row's first new token goes, a row each."""
        return torch.stack(
            [
                self.cache.held(r.slot.arena, r.slot.index, len(r.slot.ids)).flatten()
                for r in batch.rows
            ]
        )


def _apart(found: Tensor, wanted: Tensor) -> float:
    """The row that is farthest from what is wanted, in standard deviations of that row."""
    found, wanted = found.float().flatten(1), wanted.float().flatten(1)
    # Of one or two labels the spread says nothing: their size in the whole batch does.
    few = wanted.shape[1] <= 2
    spread = wanted.abs().mean().clamp(min=0.01) if few else wanted.std(dim=-1).clamp(min=1e-6)
    distance = (found - wanted).square().mean(dim=-1).sqrt() / spread
    worst = float(distance.max())
    return worst if worst == worst else float("inf")  # NaN agrees with nothing
