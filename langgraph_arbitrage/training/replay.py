"""Reads collected steps with a scorer as the loop would, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.engine import Reading
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.policies import PastStep
from langgraph_arbitrage.scorers import Judgement, StepScorer
from langgraph_arbitrage.training.examples import Example
from langgraph_arbitrage.training.prefix import ask_scorer

__all__ = ["Replayed", "replay"]


@dataclass(frozen=True)
class Replayed:
    """A step as a scorer met it."""

    history: tuple[PastStep, ...]
    """The steps before, with what the scorer noted at each."""
    reading: Reading
    judgement: Judgement


async def replay(
    models: Models,
    scorer: StepScorer,
    examples: Sequence[Example],
    *,
    concurrency: int = 32,
    progress: Callable[[], None] = lambda: None,
) -> list[Replayed]:
    """Have a scorer judge each step, in order.

    In the loop a router notes something when it judges the *draft's* step, also where the target
    then writes another; so a step that the target wrote is noted by the draft's step from the
    same prefix, where the examples have it.

    Args:
        models: Where the scorer's engine is found.
        scorer: Who judges.
        examples: Steps in their contexts; best all of a question's together.
        concurrency: Questions under way at a time.
        progress: Called after each question.
    """
    questions: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        questions.setdefault(example.question, []).append(i)
    found: list[Replayed | None] = [None] * len(examples)
    slots = asyncio.Semaphore(concurrency)

    async def one(indices: list[int]) -> None:
        async with slots:
            reader = _Reader(models, scorer, [examples[i] for i in indices])
            for i in sorted(indices, key=lambda i: len(examples[i].history)):
                example = examples[i]
                found[i] = await reader.judged(example.history, example.tags, example.step)
            progress()

    await asyncio.gather(*(one(indices) for indices in questions.values()))
    return [r for r in found if r is not None]


class _Reader:
    """Judges the steps of one question, none twice."""

    def __init__(self, models: Models, scorer: StepScorer, examples: Sequence[Example]) -> None:
        self._models = models
        self._scorer = scorer
        self._question = examples[0].question
        self._drafted = {e.history: e.step for e in reversed(examples)}
        self._found: dict[tuple[tuple[str, ...], str], Replayed] = {}

    async def judged(self, history: tuple[str, ...], tags: tuple[int, ...], step: str) -> Replayed:
        key = history, step
        if key not in self._found:
            past = tuple([await self._past(history, tags, k) for k in range(len(history))])
            ask = self._scorer.ask(self._question, past, step)
            reading = await ask_scorer(self._models, ask)
            self._found[key] = Replayed(past, reading, self._scorer.judge(past, reading))
        return self._found[key]

    async def _past(self, history: tuple[str, ...], tags: tuple[int, ...], k: int) -> PastStep:
        before, text = history[:k], history[k]
        noted_by = self._drafted.get(before, text) if tags[k] else text
        noted = await self.judged(before, tags[:k], noted_by)
        writer = "target" if tags[k] else "draft"
        return PastStep(writer, text, 0, noted.judgement.memory)  # type: ignore[arg-type]
