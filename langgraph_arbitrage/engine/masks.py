"""Which tokens each new token attends to."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["Masks"]


class Masks:
    """Makes a model's masks from positions: causal, and with a sliding window where it has one."""

    def __init__(self, model: PreTrainedModel) -> None:
        text = model.config.get_text_config()
        self._layer_types: list[str] = sorted(set(getattr(text, "layer_types", None) or []))
        self._window: int | None = getattr(text, "sliding_window", None)
        self._dtype, self._device = model.dtype, model.device
        self._lowest = torch.finfo(model.dtype).min
        self._positions = torch.arange(0, device=model.device)

    def keys(self, view: int) -> Tensor:
        """All positions below `view`."""
        if len(self._positions) < view:
            self._positions = torch.arange(2 * view, device=self._device)
        return self._positions[:view]

    def of(self, position_ids: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks [B, 1, Q, view]; one a layer type where the model has several.

        Args:
            position_ids: Positions of the new tokens, [B, Q].
            keys: Positions that are read, [view].
        """
        queries = position_ids[:, None, :, None]
        full = keys <= queries
        sliding = full & (keys > queries - self._window) if self._window else full
        if len(self._layer_types) > 1:
            return {
                kind: self._additive(sliding if kind == "sliding_attention" else full)
                for kind in self._layer_types
            }
        uses_window = self._layer_types in ([], ["sliding_attention"])
        return self._additive(sliding if uses_window else full)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~visible, self._lowest)
