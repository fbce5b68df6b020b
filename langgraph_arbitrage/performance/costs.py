"""Measure prefill, decode and scoring times through the engine."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreRequest
from langgraph_arbitrage.performance.forecast import ReadCost

__all__ = ["WriterCosts", "decode_seconds", "scoring_seconds", "writer_costs"]


@dataclass(frozen=True)
class WriterCosts:
    """Costs of a draft or target at batch size 1."""

    token: float
    """Seconds per decoded token."""
    read: ReadCost
    """Cost of a forward over new tokens after a cached prefix."""
    prompt: float
    """Seconds to prefill the prompt without cached tokens."""


def writer_costs(engine: Engine, prompt: Sequence[int], step: int, rounds: int) -> WriterCosts:
    """Measure the costs of a draft or target.

    Args:
        engine: Engine of the model.
        prompt: Prompt token ids of a question.
        step: Number of tokens per step.
        rounds: Number of repetitions of each measurement, of which the median is used.
    """
    uncached = _UncachedIds(engine, prompt)
    prefill = _median(
        lambda: engine.submit(GenerateRequest(uncached.ids(len(prompt)), 1)).result().seconds,
        rounds,
    )
    token, reads = decode_seconds(engine, prompt, 4 * step, rounds), []
    for n in (step, 4 * step):
        engine.submit(GenerateRequest(prompt, 1)).result()
        seconds = _median(
            lambda n=n: (  # type: ignore[misc]
                engine.submit(GenerateRequest([*prompt, *uncached.ids(n)], 1)).result().seconds
            ),
            rounds,
        )
        reads.append((n, seconds))
    return WriterCosts(token, ReadCost.through(*reads), prefill)


def decode_seconds(
    engine: Engine, prompt: Sequence[int], tokens: int, rounds: int, batch: int = 1
) -> float:
    """Measure the seconds per decoding step of `batch` concurrent sequences.

    Args:
        engine: Engine of the model.
        prompt: Prompt token ids of the first sequence. The other sequences get random prompts of
            the same length.
        tokens: Number of tokens to decode per sequence.
        rounds: Number of repetitions, of which the median is used.
        batch: Number of sequences.
    """
    uncached = _UncachedIds(engine, prompt)
    prompts = [list(prompt), *(uncached.ids(len(prompt)) for _ in range(batch - 1))]

    def measure() -> float:
        handles = [engine.submit(GenerateRequest(ids, max_tokens=tokens)) for ids in prompts]
        outputs = [handle.result() for handle in handles]
        return max(o.seconds for o in outputs) / max(len(o.ids) for o in outputs)

    measure()  # prefills the prompts
    return _median(measure, rounds)


def scoring_seconds(engine: Engine, tokens: int, rounds: int) -> float:
    """Measure the seconds of a scorer's forward over `tokens` tokens that are not cached."""
    uncached = _UncachedIds(engine, ())
    return _median(
        lambda: engine.submit(ScoreRequest(uncached.ids(tokens))).result().seconds, rounds + 1
    )


class _UncachedIds:
    """Draws random token ids, so that the engine has no cached prefix for them.

    The values of the ids do not affect the measured time.
    """

    def __init__(self, engine: Engine, like: Sequence[int]) -> None:
        self._pool = sorted(set(like)) or list(range(3, min(300, len(engine.tokenizer.hf))))
        self._random = random.SystemRandom()

    def ids(self, count: int) -> list[int]:
        return self._random.choices(self._pool, k=count)


def _median(measure: Callable[[], float], rounds: int) -> float:
    return statistics.median(measure() for _ in range(max(1, rounds)))
