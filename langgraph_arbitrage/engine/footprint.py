"""What a model moves and computes for a token: bytes of weights and keys and values, operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.cpu import parameters

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """A loaded model by its sizes; nothing is measured here."""

    parameters: int
    weights: int
    """Bytes of all weights that a token needs, those of every routed expert included. Not of
    embeddings, of which it needs a row, unless the output head is the same tensor."""
    experts: int
    """Bytes of routed experts among them."""
    routed: float
    """Part of the experts that one token is routed to; 1 without any."""
    operations: int
    """Of one token, attention aside: a multiply and an add for each weight that it needs."""
    layers: tuple[tuple[int, int | None], ...]
    """For each layer: bytes of keys and values of a token, and the window that it looks back."""
    spread: int
    """Operations of a layer for each token that a token looks at: 4 × heads × head size."""
    device: str
    dtype: str

    def bytes(self, rows: int, read: int, context: int) -> float:
        """Bytes that a forward has to move.

        Args:
            rows: Sequences in the batch (B).
            read: Tokens that it reads of each (Q).
            context: Tokens that are in the cache of each before.
        """
        touched = 1 - (1 - self.routed) ** (rows * read)  # experts that some token is routed to
        cached = sum(size * min(context, window or context) for size, window in self.layers)
        return self.weights - self.experts * (1 - touched) + rows * cached

    def work(self, rows: int, read: int, context: int) -> float:
        """Operations of such a forward."""
        seen = sum(min(context + read / 2, window or math.inf) for _, window in self.layers)
        return float(rows * read * (self.operations + self.spread * seen))


def footprint(model: PreTrainedModel) -> Footprint:
    """The sizes of a loaded model, quantized weights as they are stored."""
    text = model.config.get_text_config()
    head = getattr(model.get_output_embeddings(), "weight", None)
    tables = {
        id(m.weight): m.weight.numel()
        for m in model.modules()
        if isinstance(m, nn.Embedding) and m.weight is not head
    }
    needed = {n: p for n, p in model.named_parameters() if id(p) not in tables}
    experts = {n: p for n, p in needed.items() if ".experts." in n}
    count = next(filter(None, (_of(text, n) for n in EXPERTS)), 0)
    routed = (_of(text, "num_experts_per_tok") or count) / count if experts and count else 1.0
    held = model.num_parameters()
    unrouted = (1 - routed) * sum(p.numel() for p in experts.values())
    heads = _of(text, "num_attention_heads") or 0
    size = _of(text, "head_dim") or (text.hidden_size // heads if heads else 0)
    entry = 2 * (_of(text, "num_key_value_heads") or heads) * size * model.dtype.itemsize
    window = _of(text, "sliding_window")
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
    return Footprint(
        parameters=parameters(model),
        weights=sum(map(_stored, needed.values())),
        experts=sum(map(_stored, experts.values())),
        routed=routed,
        operations=int(2 * (held - sum(tables.values()) - unrouted)),
        layers=tuple((entry, window if kind == "sliding_attention" else None) for kind in kinds),
        spread=4 * heads * size,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names that configs have for the number of routed experts of a layer."""


def _stored(tensor: Tensor) -> int:
    """Bytes of a tensor, or of those that a quantized one is made of."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.nbytes
    names, _ = flatten()
    return sum(_stored(getattr(tensor, name)) for name in names)


def _of(config: Any, name: str) -> int | None:
    value: int | None = getattr(config, name, None)
    return value
