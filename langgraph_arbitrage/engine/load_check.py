"""The load check: compares the results of a runner with a plain forward of the model.

It compares log-probabilities of given tokens, not generated texts. In half precision, two almost
equally probable tokens are enough to change a greedy text.
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

LENGTHS = (5, 12, 19)  # tokens; different, to test batches of sequences of different lengths
DECODED = 3  # number of trailing tokens of each prompt that are computed one by one
# For a sliding window of at most this many tokens, the prompts are longer than the window. With a
# larger window, such prompts would take too long.
MAX_WINDOW = 1024
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.1}
QUANTIZED_TOLERANCE = 0.15  # rounding errors may change the quantization level of an activation


def _tolerance(model: PreTrainedModel) -> float:
    """Return the maximum mean of |p - q| / (1 + |q|) for log-probabilities p and expected q."""
    if getattr(model, "hf_quantizer", None) is not None:
        return QUANTIZED_TOLERANCE
    return TOLERANCE.get(model.dtype, QUANTIZED_TOLERANCE)


@dataclass(frozen=True)
class LoadCheck:
    """Prompts, and the results of a plain forward for each of them."""

    model: PreTrainedModel
    prompts: list[list[int]]
    """Two variants per length, which differ in their last `DECODED` tokens. The list contains the
    first variants of all lengths, then the second variants."""
    expected: list[Tensor]
    """For each prompt: the log-probability of each token after the first, or a classifier's
    logits."""

    @classmethod
    def of(cls, model: PreTrainedModel, *, classifies: bool) -> LoadCheck:
        """Create the prompts and run the plain forwards.

        Args:
            model: The model, with its original attention function.
            classifies: Whether the model is a classifier.
        """
        config = model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or 0
        extra = window if window <= MAX_WINDOW else 0
        rng = random.Random(0)

        def ids(n: int) -> list[int]:
            return [rng.randrange(config.vocab_size) for _ in range(n)]

        prompts = [ids(n + extra) for n in LENGTHS]
        prompts += [p[:-DECODED] + ids(DECODED) for p in prompts]
        return cls(
            model, prompts, [_plain_scores(model, p, classifies=classifies) for p in prompts]
        )

    def passes(self, scheduler: Scheduler) -> bool:
        """Return whether a scheduler's runner computes the expected results.

        The first variants run as a batch, and their last tokens are computed one by one. The second
        variants then roll back these tokens. The check also fails if the model rejects the inputs.

        Args:
            scheduler: A scheduler whose KV cache is empty.
        """
        half = len(LENGTHS)
        try:
            if scheduler.runner.cache.max_slots == 1:
                return all(self._agrees(scheduler, [i]) for i in range(2 * half))
            variants = [list(range(half)), list(range(half, 2 * half))]
            return all(self._agrees(scheduler, indices) for indices in variants)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            if out_of_memory(error):
                raise  # not an error of the runner
            logger.debug("The load check failed with %r", error, exc_info=True)
            return False

    def _agrees(self, scheduler: Scheduler, indices: Sequence[int]) -> bool:
        """Return whether the prompts at `indices`, run as a batch, give the expected results."""
        if scheduler.classifies:
            outputs = _run(scheduler, [ScoreRequest(self.prompts[i]) for i in indices])
            return self._is_close(
                [(o.logits, self.expected[i]) for o, i in zip(outputs, indices, strict=True)]
            )
        logprobs: list[list[float]] = [[] for _ in indices]
        is_second = all(i >= len(LENGTHS) for i in indices)  # prefixes are cached
        for cut in range(DECODED, -1, -1):
            ends = [len(self.prompts[i]) - cut for i in indices]
            starts = [1 if cut == DECODED and not is_second else end - 1 for end in ends]
            requests = [
                ScoreRequest(self.prompts[i][:end], start=start)
                for i, start, end in zip(indices, starts, ends, strict=True)
            ]
            for values, output in zip(logprobs, _run(scheduler, requests), strict=True):
                values.extend(output.logprobs)
        pairs = zip(logprobs, indices, strict=True)
        return self._is_close([(v, self.expected[i][-len(v) :]) for v, i in pairs])

    def _is_close(self, pairs: Sequence[tuple[Sequence[float], Tensor]]) -> bool:
        tolerance = _tolerance(self.model)
        errors = [((torch.tensor(a) - b).abs() / (1 + b.abs())).mean() for a, b in pairs]
        return all(bool(error <= tolerance) for error in errors)  # False for NaN


def _plain_scores(model: PreTrainedModel, ids: list[int], *, classifies: bool) -> Tensor:
    """Return the expected result for one prompt. See `LoadCheck.expected`."""
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
    """Compute the logits [Q, V] or [labels] of a plain forward over a few tokens."""
    rng = random.Random(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = [rng.randrange(vocabulary) for _ in range(LENGTHS[0])]
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
    return logits.float()
