"""Memory traffic and floating-point operations of a forward, computed from a model's sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.cpu import parameter_count

__all__ = ["Footprint", "footprint"]

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Config fields for the number of routed experts per layer, in different architectures."""


@dataclass(frozen=True)
class Footprint:
    """Sizes of a loaded model, computed from its config and weights, not measured."""

    parameters: int
    """Number of parameters."""
    weights: int
    """Bytes of the weights that a forward reads, including all routed experts. Embeddings count
    only if the output head uses the same tensor, because a token reads only one row of them."""
    expert_bytes: int
    """Bytes of the routed experts in `weights`."""
    routed_fraction: float
    """Fraction of the routed experts that one token uses. 1 without routed experts."""
    operations: int
    """Floating-point operations per token without attention: 2 per weight that the token uses."""
    layers: tuple[tuple[int, int | None], ...]
    """For each layer: the bytes of one token's keys and values, and the attention window in tokens.
    The window is None for full attention."""
    attention_operations: int
    """Floating-point operations per layer for one query and one key: 4 × heads × head size."""
    device: str
    dtype: str

    def bytes(self, batch_size: int, tokens: int, context: int) -> float:
        """Compute the number of bytes that a forward reads.

        Args:
            batch_size: Number of sequences (B).
            tokens: Number of computed tokens per sequence (Q).
            context: Number of cached tokens per sequence.
        """
        # Expected fraction of the experts that at least one token is routed to.
        used = 1 - (1 - self.routed_fraction) ** (batch_size * tokens)
        cached = sum(size * min(context, window or context) for size, window in self.layers)
        return self.weights - self.expert_bytes * (1 - used) + batch_size * cached

    def work(self, batch_size: int, tokens: int, context: int) -> float:
        """Compute the floating-point operations of a forward. For the arguments, see `bytes`."""
        keys = sum(min(context + tokens / 2, window or math.inf) for _, window in self.layers)
        per_token = self.operations + self.attention_operations * keys
        return float(batch_size * tokens * per_token)


def footprint(model: PreTrainedModel) -> Footprint:
    """Compute the sizes of a loaded model. For quantized weights, the stored size counts."""
    config = model.config.get_text_config()
    head = getattr(model.get_output_embeddings(), "weight", None)
    embeddings = {
        id(m.weight): m.weight.numel()
        for m in model.modules()
        if isinstance(m, nn.Embedding) and m.weight is not head
    }
    weights = {n: p for n, p in model.named_parameters() if id(p) not in embeddings}
    experts = {n: p for n, p in weights.items() if ".experts." in n}
    count = next(filter(None, (_get(config, n) for n in EXPERT_COUNTS)), 0)
    used_experts = _get(config, "num_experts_per_tok") or count
    routed_fraction = used_experts / count if experts and count else 1.0
    unused = (1 - routed_fraction) * sum(p.numel() for p in experts.values())
    used = model.num_parameters() - sum(embeddings.values()) - unused
    heads = _get(config, "num_attention_heads") or 0
    head_size = _get(config, "head_dim") or (config.hidden_size // heads if heads else 0)
    kv_heads = _get(config, "num_key_value_heads") or heads
    kv_bytes = 2 * kv_heads * head_size * model.dtype.itemsize
    window = _get(config, "sliding_window")
    layer_types = getattr(config, "layer_types", None)
    layer_types = layer_types or ["sliding_attention"] * config.num_hidden_layers
    return Footprint(
        parameters=parameter_count(model),
        weights=sum(map(_stored_bytes, weights.values())),
        expert_bytes=sum(map(_stored_bytes, experts.values())),
        routed_fraction=routed_fraction,
        operations=int(2 * used),
        layers=tuple(
            (kv_bytes, window if layer_type == "sliding_attention" else None)
            for layer_type in layer_types
        ),
        attention_operations=4 * heads * head_size,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _stored_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor. A quantized tensor is the sum of its component tensors."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.nbytes
    names, _ = flatten()
    return sum(_stored_bytes(getattr(tensor, name)) for name in names)


def _get(config: Any, name: str) -> int | None:
    value: int | None = getattr(config, name, None)
    return value
