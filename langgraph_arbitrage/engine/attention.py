"""Attention of one batch over keys of several lengths.

Rows of several arenas go through the model together. Everything but attention treats each row by
itself; attention reads each arena's rows up to the longest of them, and no further.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["join_arenas"]

NAME = "langgraph_arbitrage"
PLAIN = "sdpa"


def join_arenas(model: PreTrainedModel, *, joined: bool) -> bool:
    """Let a model attend to rows of several arenas in one forward, or no longer.

    Returns:
        Whether it does so now: only torch's attention is replaced, by a function that calls it.
        Models that use what the cache returns in other ways are found out by the capability check.
    """
    if model.config.get_text_config()._attn_implementation not in (PLAIN, NAME):
        return False
    model.set_attn_implementation(NAME if joined else PLAIN)
    return joined


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor | tuple[Tensor, ...],
    value: Tensor | tuple[Tensor, ...],
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`scaled_dot_product_attention`, arena by arena where the cache returned several.

    Args:
        module: The model's attention layer.
        query: [B, H, Q, D]; the rows of the first arena first.
        key: [B, H, view, D], or one such tensor for the rows of each arena.
        value: Like `key`.
        attention_mask: Additive mask, [B, 1, Q, longest view]; None where there is one row.
        kwargs: As transformers passes them.

    Returns:
        [B, Q, H, D], and no weights.
    """
    if isinstance(key, Tensor) or isinstance(value, Tensor):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[arg-type]
    assert attention_mask is not None  # noqa: S101 - several rows always have one
    found, first = [], 0
    for keys, values in zip(key, value, strict=True):
        rows = slice(first, first + keys.shape[0])
        mask = attention_mask[rows, ..., : keys.shape[2]]
        found.append(sdpa_attention_forward(module, query[rows], keys, values, mask, **kwargs)[0])
        first += keys.shape[0]
    return torch.cat(found), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
