"""Create models with the shapes of real ones and random weights, which do not affect their speed.

Needs neither LangChain nor LangGraph.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
)

__all__ = ["CONTEXT", "SHAPES", "clock", "free_bytes", "prompts", "random_model"]

CONTEXT = 4096
"""Context length of the models in tokens."""
LLAMA: dict[str, Any] = {
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "tie_word_embeddings": False,
    },
    "qwen2.5-1.5b": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "qwen2.5-0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "tiny-deep": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


@torch.inference_mode()
def random_model(
    shape: str, device: str, dtype: torch.dtype, *, labels: int | None = None
) -> PreTrainedModel:
    """Create a model on a device. It has no end token, so it decodes until the token limit.

    Args:
        shape: Name of a shape in `SHAPES`.
        device: Device, or `meta` to allocate no memory.
        dtype: Dtype of the weights.
        labels: Number of labels of a Qwen2 token classifier; None creates a causal LM.
    """
    torch.manual_seed(0)
    sizes = SHAPES[shape] | {"max_position_embeddings": CONTEXT, "eos_token_id": None}
    with torch.device(device):
        if labels is not None:
            config = Qwen2Config(**sizes, num_labels=labels)
            model: PreTrainedModel = Qwen2ForTokenClassification._from_config(config, dtype=dtype)
        elif shape.startswith("qwen"):
            model = Qwen2ForCausalLM._from_config(Qwen2Config(**sizes), dtype=dtype)
        else:
            model = LlamaForCausalLM._from_config(LlamaConfig(**sizes), dtype=dtype)
    if device != "meta":
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.05)
    return model.eval()


def free_bytes(device: str) -> int | None:
    """Return the free memory of a GPU in bytes; None on other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None


def prompts(n: int, length: int) -> list[list[int]]:
    """Generate n random prompts of decreasing lengths, from `length` on. No cache contains them."""
    generator = torch.Generator().manual_seed(time.perf_counter_ns())
    return [torch.randint(3, 500, (length - i,), generator=generator).tolist() for i in range(n)]


def clock(device: str) -> float:
    """Wait for the device and return the current time in seconds."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()
