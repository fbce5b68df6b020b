"""The check at load: does a runner compute what a plain forward of the model computes?

Log-probabilities of given tokens are compared, not texts: in half precision greedy texts differ by
ties alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.requests import RequestHandle, ScoreOutput, ScoreRequest
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.models.memory import out_of_memory

__all__ = ["LoadCheck", "plain_logits"]

logger = logging.getLogger(__name__)

LENGTHS = (5, 12, 19)  # ragged, so that sequences of several lengths run together
DECODED = 3  # last tokens of each prompt that are computed one by one
WINDOW_LIMIT = 1024  # a longer sliding window is not passed: it would take too long
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.1}
COARSE = 0.15  # quantized activations: a last bit that differs is rounded to another level


def _tolerance(model: PreTrainedModel) -> float:
    """Allowed mean difference of log-probabilities, relative to 1 + their size."""
    quantized = getattr(model, "hf_quantizer", None) is not None
    return COARSE if quantized else TOLERANCE.get(model.dtype, COARSE)


@dataclass(frozen=True)
class LoadCheck:
    """Prompts, and what a plain forward finds for them."""

    model: PreTrainedModel
    prompts: list[list[int]]
    """Two variants of each length, which differ in their last `DECODED` tokens."""
    plain: list[Tensor]
    """Of each prompt: log-probability of each token but the first, or the labels' logits."""

    @classmethod
    def of(cls, model: PreTrainedModel, *, classifies: bool) -> LoadCheck:
        """Run the plain forwards, on prompts that pass any window of up to `WINDOW_LIMIT`."""
        text = model.config.get_text_config()
        window = getattr(text, "sliding_window", None) or 0
        longer = window if window <= WINDOW_LIMIT else 0
        rng = random.Random(0)

        def ids(n: int) -> list[int]:
            return [rng.randrange(text.vocab_size) for _ in range(n)]

        prompts = [ids(n + longer) for n in LENGTHS]
        prompts += [p[:-DECODED] + ids(DECODED) for p in prompts]
        return cls(model, prompts, [_plain(model, p, classifies=classifies) for p in prompts])

    def passes(self, scheduler: Scheduler) -> bool:
        """Whether a runner with an empty cache agrees.

        The first variants are read together and then continued token by token; the second ones
        roll back over those tokens. A model that refuses the runner's inputs does not agree.
        """
        half = len(LENGTHS)
        try:
            if scheduler.runner.cache.max_slots == 1:
                return all(self._agree(scheduler, [i]) for i in range(2 * half))
            together = [list(range(half)), list(range(half, 2 * half))]
            return all(self._agree(scheduler, indices) for indices in together)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            if out_of_memory(error):
                raise  # which says nothing about the runner
            logger.debug("the check at load failed with %r", error, exc_info=True)
            return False

    def _agree(self, scheduler: Scheduler, indices: Sequence[int]) -> bool:
        """Whether these prompts, run together, have the values of a plain forward."""
        if scheduler.classifies:
            outputs = _run(scheduler, [ScoreRequest(self.prompts[i]) for i in indices])
            return self._close(
                [(o.logits, self.plain[i]) for o, i in zip(outputs, indices, strict=True)]
            )
        found: list[list[float]] = [[] for _ in indices]
        resumes = all(i >= len(LENGTHS) for i in indices)  # from what the first variants left
        for cut in range(DECODED, -1, -1):
            ends = [len(self.prompts[i]) - cut for i in indices]
            starts = [1 if cut == DECODED and not resumes else end - 1 for end in ends]
            requests = [
                ScoreRequest(self.prompts[i][:end], start=start)
                for i, start, end in zip(indices, starts, ends, strict=True)
            ]
            for values, output in zip(found, _run(scheduler, requests), strict=True):
                values.extend(output.logprobs)
        pairs = zip(found, indices, strict=True)
        return self._close([(v, self.plain[i][-len(v) :]) for v, i in pairs])

    def _close(self, pairs: Sequence[tuple[Sequence[float], Tensor]]) -> bool:
        limit = _tolerance(self.model)
        apart = [((torch.tensor(a) - b).abs() / (1 + b.abs())).mean() for a, b in pairs]
        return all(bool(difference <= limit) for difference in apart)  # NaN does not agree


def _plain(model: PreTrainedModel, ids: list[int], *, classifies: bool) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float()
    if classifies:
        return (logits if logits.dim() == 1 else logits[-1]).cpu()
    scored = torch.tensor(ids[1:], device=logits.device)
    return logits[:-1].log_softmax(-1).gather(-1, scored[:, None]).squeeze(-1).cpu()


def _run(scheduler: Scheduler, requests: Sequence[ScoreRequest]) -> list[ScoreOutput]:
    handles: list[RequestHandle[Any]] = [RequestHandle(r) for r in requests]
    for handle in handles:
        scheduler.add(handle)
    while scheduler.busy:
        scheduler.step()
    return [h.result(0) for h in handles]


def plain_logits(model: PreTrainedModel) -> Tensor:
    """Logits of a plain forward over a few tokens, [Q, V] or [labels]."""
    rng = random.Random(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = [rng.randrange(vocabulary) for _ in range(LENGTHS[0])]
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
    return logits.float()
