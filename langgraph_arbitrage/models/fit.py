"""Estimates the memory that a model needs from its config, without downloading weights."""

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
    """The memory that one model needs."""

    name: str
    """Short name of the model."""
    device: torch.device
    dtype: torch.dtype
    """Dtype of unquantized weights and of the KV cache."""
    parameters: int
    """Number of parameters."""
    weights: int
    """Bytes of the loaded weights."""
    token: int
    """Bytes of the keys and values of one token in all layers. 0 if the model has no KV cache."""
    context: int | None
    """Context length in tokens. None: unlimited."""
    quantized: bool
    """Whether the loaded weights are quantized."""

    def cache(self, sequences: int, tokens: int) -> int:
        """Compute the bytes of the KV cache for `sequences` sequences of `tokens` tokens each."""
        return self.token * sequences * min(tokens, self.context or tokens)

    def total(self, sequences: int, tokens: int) -> int:
        """Compute the bytes of the weights, the KV cache, and temporary tensors of a forward.

        Args:
            sequences: Number of concurrent sequences.
            tokens: Number of tokens per sequence.
        """
        return int(HEADROOM * (self.weights + self.cache(sequences, tokens)))


def memory_needs(spec: ModelSpec) -> MemoryNeeds:
    """Estimate the memory that a model needs.

    The function reads the config. It also reads the headers of the weights files, if they are on
    this machine.

    Raises:
        CheckpointError: The checkpoint does not exist, or it is not a causal language model.
        SettingsError: The device is unknown or not available.
    """
    config = load_config(spec)
    device = choose_device(spec)
    dtype = choose_dtype(spec, device)
    model = _without_weights(spec, config)
    parameters = sum(p.numel() for p in model.parameters())
    bits = checkpoint_bits(spec, config)
    # Embeddings and output head are not quantized. They may share their weights.
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
        token=_token_numbers(config) * dtype.itemsize,
        context=context_length(config),
        quantized=bits is not None,
    )


def _without_weights(spec: ModelSpec, config: PreTrainedConfig) -> Any:
    """Create the model on torch's meta device, where tensors have shapes but no memory."""
    config = type(config).from_dict(config.to_dict() | {"quantization_config": None})
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=spec.trust_remote_code
            ).eval()
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"transformers cannot create {spec.name} as a causal language model: {error}"
        ) from error


def _token_numbers(config: PreTrainedConfig) -> int:
    """Return how many numbers the KV cache stores for one token in all layers together."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if not heads:  # a state space model
        return 0
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    layers = sum("attention" in kind and "linear" not in kind for kind in kinds)
    layers -= getattr(text, "num_kv_shared_layers", 0) or 0
    key = value = getattr(text, "head_dim", None) or text.hidden_size // heads
    if getattr(text, "kv_lora_rank", None):  # keys and values are cached decompressed
        key, value = text.qk_nope_head_dim + text.qk_rope_head_dim, text.v_head_dim
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return int(layers * kv_heads * (key + value))
