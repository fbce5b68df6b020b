"""Memory that a model needs, from its config alone: no weights are downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.models.checkpoint import (
    HEADROOM,
    choose_device,
    choose_dtype,
    context_length,
    load_config,
    weight_bytes,
)
from langgraph_arbitrage.models.quantization import checkpoint_bits
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["MemoryNeeds", "memory_needs"]


@dataclass(frozen=True)
class MemoryNeeds:
    """Memory of one model."""

    name: str
    device: torch.device
    dtype: torch.dtype
    parameters: int
    weights: int
    """Bytes of the loaded weights."""
    token: int
    """Bytes of one token's keys and values in the KV cache; 0 if the model has none."""
    context: int | None
    """Context length in tokens; None without a limit."""
    quantized: bool

    def cache(self, sequences: int, tokens: int) -> int:
        """Bytes of the KV cache for some sequences of this many tokens each."""
        return self.token * sequences * min(tokens, self.context or tokens)

    def total(self, sequences: int, tokens: int) -> int:
        """Bytes of weights, KV cache and what a forward needs beside them."""
        return int(HEADROOM * (self.weights + self.cache(sequences, tokens)))


def memory_needs(spec: ModelSpec) -> MemoryNeeds:
    """Compute what a model needs. Reads its config, and the headers of local weights if any.

    Raises:
        CheckpointError: The checkpoint does not exist, or it is no causal language model.
        SettingsError: The device is not on this machine.
    """
    config = load_config(spec)
    device = choose_device(spec)
    dtype = choose_dtype(spec, device)
    model = _without_weights(spec, config)
    parameters = sum(p.numel() for p in model.parameters())
    bits = checkpoint_bits(spec, config)
    # Embeddings stay unquantized, as the head, which may be the same weights.
    unquantized = model.get_input_embeddings().weight.numel()
    if not config.get_text_config().tie_word_embeddings:
        unquantized *= 2
    estimated = parameters * dtype.itemsize
    if bits is not None:
        quantized = parameters - unquantized
        estimated = int(unquantized * dtype.itemsize + quantized * bits / 8)
    return MemoryNeeds(
        name=spec.name,
        device=device,
        dtype=dtype,
        parameters=parameters,
        weights=weight_bytes(spec, dtype) or estimated,
        token=_token_bytes(model) * dtype.itemsize,
        context=context_length(config),
        quantized=bits is not None,
    )


def _without_weights(spec: ModelSpec, config: PreTrainedConfig) -> Any:
    """The model on torch's meta device, whose tensors have shapes and no memory."""
    config = type(config).from_dict(config.to_dict() | {"quantization_config": None})
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=spec.trust_remote_code
            ).eval()
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{spec.name} is not a causal language model that transformers knows: {error}"
        ) from error


def _token_bytes(model: Any) -> int:
    """Numbers that one token adds to the KV cache, from a forward of one token without memory."""
    with torch.no_grad():
        ids = torch.zeros((1, 1), dtype=torch.long, device="meta")
        cache = model(ids, use_cache=True).get("past_key_values")
    layers = getattr(cache, "layers", ())
    tensors = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    return sum(tensor.numel() for tensor in tensors if tensor is not None)
