"""Seconds of what the engine does, measured through the engine: tokens, reading, prompts."""

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
    """A writer at batch 1."""

    token: float
    """Seconds of a decoded token."""
    read: ReadCost
    prompt: float
    """Seconds in which it reads a prompt that it has not seen."""


def writer_costs(engine: Engine, prompt: Sequence[int], step: int, rounds: int) -> WriterCosts:
    """Measure a writer.

    Args:
        engine: The writer.
        prompt: Ids of a question.
        step: Tokens of a step, which are what is read at a time.
        rounds: Of each measurement, of which the median is taken.
    """
    strangers = _Strangers(engine, prompt)
    unread = _median(
        lambda: engine.submit(GenerateRequest(strangers.ids(len(prompt)), 1)).result().seconds,
        rounds,
    )
    token, reads = decode_seconds(engine, prompt, 4 * step, rounds), []
    for n in (step, 4 * step):
        engine.submit(GenerateRequest(prompt, 1)).result()
        more = _median(
            lambda n=n: (  # type: ignore[misc]
                engine.submit(GenerateRequest([*prompt, *strangers.ids(n)], 1)).result().seconds
            ),
            rounds,
        )
        reads.append((n, more))
    return WriterCosts(token, ReadCost.through(*reads), unread)


def decode_seconds(
    engine: Engine, prompt: Sequence[int], tokens: int, rounds: int, batch: int = 1
) -> float:
    """Seconds of a decoded token of each of `batch` sequences that are written together."""
    asked = [list(prompt), *(_Strangers(engine, prompt).ids(len(prompt)) for _ in range(batch - 1))]

    def once() -> float:
        tickets = [engine.submit(GenerateRequest(ids, max_tokens=tokens)) for ids in asked]
        written = [t.result() for t in tickets]
        return max(w.seconds for w in written) / max(len(w.ids) for w in written)

    once()  # reads the prompts
    return _median(once, rounds)


def scoring_seconds(engine: Engine, tokens: int, rounds: int) -> float:
    """Seconds in which a scorer reads a text that it has not seen."""
    strangers = _Strangers(engine, ())
    return _median(
        lambda: engine.submit(ScoreRequest(strangers.ids(tokens))).result().seconds, rounds + 1
    )


class _Strangers:
    """Ids that no cache has seen: what their values are does not change the time."""

    def __init__(self, engine: Engine, like: Sequence[int]) -> None:
        self._pool = sorted(set(like)) or list(range(3, min(300, len(engine.tokenizer.hf))))
        self._random = random.SystemRandom()

    def ids(self, count: int) -> list[int]:
        return self._random.choices(self._pool, k=count)


def _median(once: Callable[[], float], rounds: int) -> float:
    return statistics.median(once() for _ in range(max(1, rounds)))
