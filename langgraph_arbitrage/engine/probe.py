"""The capability check: does a backend compute what a plain forward of the model computes?

Teacher-forced log-probabilities are compared, not texts: in half precision greedy texts differ
by ties alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.memory import out_of_memory
from langgraph_arbitrage.engine.requests import Reading, Score, Write, Written
from langgraph_arbitrage.engine.scheduler import Scheduler, run_all
from langgraph_arbitrage.engine.ticket import Ticket

__all__ = ["TOLERANCE", "agrees", "plain_logits"]

logger = logging.getLogger(__name__)

PROMPTS = (5, 12, 19)  # ragged, so that padding and rows of several lengths are exercised
WINDOW_LIMIT = 1024  # a longer sliding window is not read past: it would take too long
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.1}
COARSE = 0.15  # quantized activations: a last bit that differs is rounded to another level


def agrees(scheduler: Scheduler, model: PreTrainedModel) -> bool:
    """Compare a backend with plain forwards on a short ragged batch.

    Three sequences are read, written on (causal LMs), extended, rolled back and extended again;
    they pass any sliding window of up to `WINDOW_LIMIT` tokens.

    Returns:
        Whether every reading lies within the dtype's tolerance. A model that refuses what the
        backend asks of it (a cache, a 4D mask) does not agree.
    """
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None) or 0
    longer = window if window <= WINDOW_LIMIT else 0
    rng = random.Random(0)

    def ids(n: int) -> list[int]:
        return [rng.randrange(text.vocab_size) for _ in range(n)]

    prompts = [ids(n + longer) for n in PROMPTS]
    # Architectures fail in their own ways where they do not take such a cache or mask.
    try:
        written: list[Written] = []
        if scheduler.outcomes.classifies:
            extended = prompts
        else:
            written = run_all(scheduler, [Ticket(Write(p, max_tokens=3)) for p in prompts])
            extended = [p + w.ids + ids(4) for p, w in zip(prompts, written, strict=True)]
        return _same(scheduler, model, extended, [len(p) for p in prompts], written) and _same(
            scheduler, model, [p[:-2] + ids(5) for p in prompts], [len(p) - 2 for p in prompts]
        )
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        if out_of_memory(error):
            raise  # that says nothing of the backend
        logger.debug("the capability check ended in %r", error, exc_info=True)
        return False


def _same(
    scheduler: Scheduler,
    model: PreTrainedModel,
    sequences: Sequence[list[int]],
    starts: Sequence[int],
    written: Sequence[Written] = (),
) -> bool:
    """Whether readings of the sequences, and steps written at their starts, are right."""
    tickets = [Ticket[Reading](Score(s, start=n)) for s, n in zip(sequences, starts, strict=True)]
    readings = run_all(scheduler, tickets)
    reference = _labels if scheduler.outcomes.classifies else _logprobs
    wanted = [reference(model, s, n) for s, n in zip(sequences, starts, strict=True)]
    return all(
        _close(reading.logits or reading.logprobs, right, model)
        for reading, right in zip(readings, wanted, strict=True)
    ) and all(
        _close(step.logprobs, right[: len(step.ids)], model)
        for step, right in zip(written, wanted, strict=False)
    )


def _close(found: Sequence[float], wanted: Tensor, model: PreTrainedModel) -> bool:
    relative = (torch.tensor(found) - wanted).abs() / (1 + wanted.abs())
    quantized = getattr(model, "hf_quantizer", None) is not None
    tolerance = COARSE if quantized else TOLERANCE.get(model.dtype, COARSE)
    return bool(relative.mean() <= tolerance)  # NaN does not agree


def plain_logits(model: PreTrainedModel) -> Tensor:
    """Logits of a plain forward over a few tokens, [Q, V] or [labels]."""
    rng = random.Random(0)
    vocabulary = model.config.get_text_config().vocab_size
    return _logits(model, [rng.randrange(vocabulary) for _ in range(PROMPTS[0])])


def _logits(model: PreTrainedModel, sequence: list[int]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([sequence], device=model.device)).logits[0]
    return logits.float()


def _logprobs(model: PreTrainedModel, sequence: list[int], start: int) -> Tensor:
    logits = _logits(model, sequence)
    scored = torch.tensor(sequence[start:], device=logits.device)
    logprobs: Tensor = logits[start - 1 : -1].log_softmax(-1)
    return logprobs.gather(-1, scored[:, None]).squeeze(-1).cpu()


def _labels(model: PreTrainedModel, sequence: list[int], start: int) -> Tensor:
    logits = _logits(model, sequence)
    return (logits if logits.dim() == 1 else logits[-1]).cpu()
