"""Attention over the KV cache.

A forward computes the tokens of all its sequences packed in one row [1, T]. All layers except
attention treat tokens independently. For each sequence, attention reads only the used positions of
that sequence's slot. So no tokens are padding, and sequences do not attend to each other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from langgraph_arbitrage.engine.transfer import on_device

__all__ = ["Layout", "PackedLayout", "active_layout", "grouped_attention", "use_cache_attention"]

NAME = "langgraph_arbitrage"
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
MIN_DENSE = 4
"""Minimum number of decoding sequences for one attention call over a range of slots.

For fewer sequences, one call per sequence is faster.
"""
MAX_PADDING = 2.0
"""Maximum ratio of read positions to needed positions for one call over a range of slots."""

_thread = threading.local()


class Layout(Protocol):
    """Maps the tokens of a forward to positions in the KV cache."""

    def store(self, cached: Tensor, states: Tensor) -> None:
        """Write the states [1, H, T, D] of new tokens into a layer's cache tensor [S, L, H, D]."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        """Compute attention from new tokens to the cache.

        Args:
            query: Queries [1, Hq, T, D] of the new tokens.
            keys: Cache tensor of the layer, [S, L, H, D].
            values: Cache tensor of the layer, [S, L, H, D].
            **options: The `window` of sliding-window attention in tokens or None, and the keyword
                arguments of `grouped_attention`.

        Returns:
            The output [1, T, Hq, D].
        """


@contextmanager
def active_layout(layout: Layout) -> Iterator[None]:
    """Set the layout that attention layers use on this thread within the `with` block."""
    _thread.layout = layout
    try:
        yield
    finally:
        _thread.layout = None


def use_cache_attention(model: PreTrainedModel) -> None:
    """Replace a model's attention function with one that reads the KV cache.

    Transformers creates no masks, because the attention function has no registered mask function.

    Raises:
        ValueError: The model does not use transformers' attention interface, or has layers other
            than full and sliding-window attention.
    """
    text = model.config.get_text_config()
    other = set(getattr(text, "layer_types", None) or []) - KNOWN_LAYERS
    if other:
        raise ValueError(f"it has layers of type {', '.join(sorted(other))}")
    model.set_attn_implementation(NAME)
    if text._attn_implementation != NAME:
        raise ValueError(
            f"{type(model).__name__} does not support transformers' attention interface"
        )


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of one layer. Transformers calls this function.

    With an active layout, the mask is ignored, because the layout determines the visible positions.
    There is no active layout if other code calls the model object directly. Such a plain forward
    supports only full causal attention.

    Returns:
        The output [1, T, Hq, D], and None in place of the attention weights.
    """
    layout = getattr(_thread, "layout", None)
    if layout is None:
        if kwargs.get("sliding_window") is not None:
            raise RuntimeError(
                "A plain forward of a model with sliding-window attention needs the original "
                "attention function. Restore it with `set_attn_implementation`."
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    options = {
        "scale": kwargs.get("scaling"),
        "window": kwargs.get("sliding_window"),
        "softcap": kwargs.get("softcap"),
        "sinks": kwargs.get("s_aux"),
    }
    if kwargs.get("position_bias") is not None:
        raise ValueError("The engine does not support attention with a position bias")
    return layout.attend(query, key, value, **options), None


AttentionInterface.register(NAME, attend)


class PackedLayout:
    """The layout of an eager forward: T packed tokens of B sequences, each with its own slot.

    Args:
        slots: Index of each sequence's slot, [B].
        starts: Position of each sequence's first computed token, [B].
        counts: Number of computed tokens of each sequence, [B].
        length: Number of positions per slot (L).
    """

    def __init__(
        self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], length: int
    ) -> None:
        self.rows = list(zip(slots, starts, counts, strict=True))
        self._length = length
        self._masks: dict[tuple[Any, ...], Tensor] = {}
        self._places: dict[torch.device, Tensor] = {}

    @cached_property
    def positions(self) -> list[int]:
        """Position of each token in its sequence, [T]."""
        return [p for _, start, n in self.rows for p in range(start, start + n)]

    def store(self, cached: Tensor, states: Tensor) -> None:
        """Write states [1, H, T, D] into a layer's cache tensor [S, L, H, D]."""
        new = states[0].transpose(0, 1)  # [T, H, D]
        if len(self.rows) == 1:
            ((slot, start, n),) = self.rows
            cached[slot, start : start + n] = new
            return
        places = self._places.get(cached.device)
        if places is None:
            flat = [slot * self._length + p for slot, start, n in self.rows
                    for p in range(start, start + n)]  # fmt: skip
            self._places[cached.device] = places = on_device(flat, cached.device)
        cached.flatten(0, 1).index_copy_(0, places, new)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        """Compute attention from each sequence's queries to its slot. See `Layout.attend`."""
        window: int | None = options.pop("window")
        if self._dense is not None:
            return self._dense.attend(query, keys, values, window, **options)
        out, first = [], 0
        for slot, start, n in self.rows:
            end = start + n
            low = max(0, start + 1 - window) if window else 0
            k = keys[slot, low:end].transpose(0, 1)  # [H, end - low, D]
            v = values[slot, low:end].transpose(0, 1)
            q = query[0, :, first : first + n]  # [Hq, n, D]
            mask = None if n == 1 else self._mask(n, start - low, window, query)
            out.append(grouped_attention(q, k, v, mask, **options))
            first += n
        joined = out[0] if len(out) == 1 else torch.cat(out)
        return joined[None]

    @cached_property
    def _dense(self) -> _DenseSlots | None:
        """One attention call for all sequences. None if calls per sequence are faster.

        It needs at least `MIN_DENSE` sequences with one computed token each, and must not exceed
        `MAX_PADDING`.
        """
        slots, starts, counts = zip(*self.rows, strict=True) if self.rows else ((), (), ())
        if len(slots) < MIN_DENSE or set(counts) != {1}:
            return None
        low, high, view = min(slots), max(slots) + 1, max(starts) + 1
        needed = sum(starts) + len(starts)
        if (high - low) * view > MAX_PADDING * needed:
            return None
        return _DenseSlots(low, high, view, slots, starts)

    def _mask(self, n: int, offset: int, window: int | None, like: Tensor) -> Tensor:
        """Create an additive causal mask [n, offset + n], limited to the window if there is one."""
        key = n, offset, window, like.device
        mask = self._masks.get(key)
        if mask is None:
            queries = torch.arange(offset, offset + n, device=like.device)[:, None]
            keys = torch.arange(offset + n, device=like.device)
            hidden = keys > queries
            if window:
                hidden |= keys <= queries - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[key] = mask.masked_fill_(hidden, -torch.inf)
        return mask


class _DenseSlots:
    """Computes attention for one token per sequence over a range of slots, in one kernel call.

    Positions beyond the end of a sequence are masked. They must contain finite numbers, because an
    additive mask does not remove NaN and infinity.

    Args:
        low: First slot of the range.
        high: First slot after the range.
        view: Number of positions to read per slot.
        slots: Index of each sequence's slot.
        starts: Position of each sequence's computed token.
    """

    def __init__(
        self, low: int, high: int, view: int, slots: Sequence[int], starts: Sequence[int]
    ) -> None:
        self._range = low, high, view
        self._places = [slot - low for slot in slots]
        # A slot without a sequence attends to one position, because a softmax over no positions is
        # NaN.
        self._ends = [1] * (high - low)
        for place, start in zip(self._places, starts, strict=True):
            self._ends[place] = start + 1
        self._in_order = self._places == list(range(high - low))
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, window: int | None, **options: Any
    ) -> Tensor:
        """Compute attention to the range of slots. See `Layout.attend`."""
        low, high, view = self._range
        k = keys[low:high, :view].transpose(1, 2)  # [B, H, view, D]
        v = values[low:high, :view].transpose(1, 2)
        rows = query[0].transpose(0, 1)  # [T, Hq, D]
        places = self._place_ids(query.device)
        if not self._in_order:
            rows = rows.new_zeros(high - low, *rows.shape[1:]).index_copy_(0, places, rows)
        found = grouped_attention(rows[:, :, None], k, v, self._mask(window, query), **options)
        if not self._in_order:
            found = found.index_select(0, places)
        return found.transpose(0, 1)

    def _place_ids(self, device: torch.device) -> Tensor:
        key = (device,)
        if key not in self._tensors:
            self._tensors[key] = on_device(self._places, device)
        return self._tensors[key]

    def _mask(self, window: int | None, like: Tensor) -> Tensor:
        """Create an additive mask [B, 1, 1, view]."""
        key = window, like.device
        if key not in self._tensors:
            ends = torch.tensor(self._ends, device=like.device)[:, None]
            positions = torch.arange(self._range[2], device=like.device)
            hidden = positions >= ends
            if window:
                hidden |= positions < ends - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._tensors[key] = mask.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self._tensors[key]


def grouped_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute grouped-query attention without copying keys and values for each query head.

    Args:
        query: [Hq, n, D], or [B, Hq, n, D].
        keys: [H, K, D], or [B, H, K, D]; Hq is a multiple of H.
        values: Like `keys`.
        mask: Additive mask, [n, K] or [B, 1, n, K]. None: all keys are visible.
        scale: Factor of the scores. None: 1/√D.
        softcap: Limits the scores to ±softcap (Gemma 2). None: unlimited.
        sinks: Score of an additional position with value 0 for each query head, [Hq] (gpt-oss).

    Returns:
        The output, [n, Hq, D] or [B, n, Hq, D].
    """
    if query.dim() == 3:
        batched = mask if mask is None else mask[None, None]
        return grouped_attention(
            query[None],
            keys[None],
            values[None],
            batched,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
        )[0]
    b, hq, n, d = query.shape
    h = keys.shape[1]
    grouped = query.reshape(b, h, hq // h * n, d)  # join query heads with the same key head
    if mask is not None and hq > h:
        mask = mask.repeat(1, 1, hq // h, 1)
    if softcap is None and sinks is None:
        found = scaled_dot_product_attention(grouped, keys, values, mask, scale=scale)
    else:
        found = _unfused_attention(grouped, keys, values, mask, scale, softcap, sinks, n)
    return found.reshape(b, hq, n, -1).transpose(1, 2)


def _unfused_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    n: int,
) -> Tensor:
    """Compute attention with softcap or sinks, which the fused kernels do not support."""
    scores = query @ keys.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is None:
        return scores.float().softmax(-1).to(values.dtype) @ values
    h = keys.shape[1]
    sink = sinks.view(1, h, -1, 1).expand(-1, -1, -1, n).reshape(1, h, -1, 1)
    scores = torch.cat((scores, sink.expand(len(scores), -1, -1, -1).to(scores.dtype)), dim=-1)
    weights = scores.float().softmax(-1)[..., :-1].to(values.dtype)
    return weights @ values
