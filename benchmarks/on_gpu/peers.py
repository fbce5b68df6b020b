"""The target alone by transformers, tokens a second."""

from __future__ import annotations

from typing import Any

import torch

from on_gpu.decoding import PROMPT, TOKENS
from on_gpu.served import Served
from random_models import clock, prompts

__all__ = ["continuous", "generate"]

PAGE = 32  # tokens of a block of continuous batching


def generate(served: Served, batch: int, **how: Any) -> float:
    """`generate`, its second run."""
    asked = torch.tensor([ids[: PROMPT - batch] for ids in prompts(batch, PROMPT)])
    asked = asked.to(served.device)

    def once() -> float:
        start = clock(served.device)
        with torch.inference_mode():
            out = served.models["target"].generate(
                asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
                **how,
            )
        return batch * (out.shape[1] - asked.shape[1]) / (clock(served.device) - start)

    once()
    return once()


def continuous(served: Served, batch: int) -> float:
    """`generate_batch`, its start included: that is how it is called."""
    from transformers import ContinuousBatchingConfig

    has_pages = hasattr(ContinuousBatchingConfig(), "page_size")
    settings = ContinuousBatchingConfig(
        num_blocks=batch * -(-(TOKENS + PROMPT) // PAGE) + batch,
        max_batch_tokens=256 + batch,
        **({"page_size": PAGE} if has_pages else {}),
    )
    start = clock(served.device)
    found = served.models["target"].generate_batch(
        prompts(batch, PROMPT),
        max_new_tokens=TOKENS,
        do_sample=False,
        continuous_batching_config=settings,
    )
    written = sum(len(one.generated_tokens) for one in found.values())
    return written / (clock(served.device) - start)
