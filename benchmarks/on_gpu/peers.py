"""Measure the target alone with transformers, in tokens per second."""

from __future__ import annotations

from typing import Any

import torch

from on_gpu.decoding import PROMPT, TOKENS
from on_gpu.model_workers import ModelWorkers
from random_models import clock, prompts

__all__ = ["continuous_batching", "generate"]

BLOCK_SIZE = 32
"""Tokens per block of continuous batching."""


def generate(workers: ModelWorkers, batch: int, **options: Any) -> float:
    """Measure the second call of `generate` with the same inputs.

    Args:
        workers: The models.
        batch: Number of sequences.
        options: Further arguments of `generate`.
    """
    inputs = torch.tensor([ids[: PROMPT - batch] for ids in prompts(batch, PROMPT)])
    inputs = inputs.to(workers.device)

    def measure() -> float:
        start = clock(workers.device)
        with torch.inference_mode():
            out = workers.models["target"].generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
                **options,
            )
        return batch * (out.shape[1] - inputs.shape[1]) / (clock(workers.device) - start)

    measure()
    return measure()


def continuous_batching(workers: ModelWorkers, batch: int) -> float:
    """Measure one call of `generate_batch`, including its start-up."""
    from transformers import ContinuousBatchingConfig

    has_page_size = hasattr(ContinuousBatchingConfig(), "page_size")
    config = ContinuousBatchingConfig(
        num_blocks=batch * -(-(TOKENS + PROMPT) // BLOCK_SIZE) + batch,
        max_batch_tokens=256 + batch,
        **({"page_size": BLOCK_SIZE} if has_page_size else {}),
    )
    start = clock(workers.device)
    outputs = workers.models["target"].generate_batch(
        prompts(batch, PROMPT),
        max_new_tokens=TOKENS,
        do_sample=False,
        continuous_batching_config=config,
    )
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    return tokens / (clock(workers.device) - start)
