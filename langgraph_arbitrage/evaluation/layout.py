"""Choose the questions and points of a sweep, with thresholds from a pilot run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import ContextLengthError
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.dataset import LeftOut, Task
from langgraph_arbitrage.evaluation.points import (
    ACCEPTS_ALL,
    ASSISTED,
    KINDS,
    Lineup,
    Point,
    rates,
    spread_thresholds,
)
from langgraph_arbitrage.evaluation.reply import GraphAnswerer, Reply, answer_async
from langgraph_arbitrage.runner import Runner
from langgraph_arbitrage.training.concurrency import map_concurrently

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Chooses the questions and thresholds of a sweep.

    Args:
        lineup: Models, router and PRM.
        config: Options, such as the number of thresholds per policy and of pilot questions.
        explicit: Thresholds set by the user, by policy. A pilot runs only for policies without an
            entry.
        settings: Settings of the sweep.
        tell: Receives progress messages.
    """

    lineup: Lineup
    config: EvaluateConfig
    explicit: dict[str, list[float]]
    settings: ArbitrageSettings
    tell: Callable[[str], None]

    async def left_out(self, tasks: Sequence[Task]) -> list[LeftOut]:
        """Return the questions that do not fit into the context of a model."""
        left_out = []
        runner = Runner(self.settings.under(self.lineup.default("confidence")))
        for task in tasks:
            try:
                await asyncio.to_thread(runner.check, task.prompt)
            except ContextLengthError as error:
                left_out.append(LeftOut(task.question, task.reference, str(error)))
        runner.close()
        return left_out

    async def points(self, kind: str, tasks: Sequence[Task]) -> list[Point]:
        """Choose the points of a policy. The first tasks are the questions of the pilot run."""
        default = None if kind == ASSISTED else self.lineup.threshold(kind)
        if default is None:
            return [Point(kind)]
        if kind in self.explicit:
            thresholds = self.explicit[kind]
            for threshold in thresholds:
                _ = self.lineup.policy(Point(kind, threshold))  # raises if it is out of range
        elif kind == "random":
            # No rate is marked as the default: a random policy has no sensible default.
            return [Point(kind, round(rate, 3)) for rate in rates(self.config.points)]
        else:
            thresholds = await self._run_pilot(kind, tasks[: self.config.pilot])
        default = float(f"{default:.6g}")
        chosen = {*thresholds} if kind in self.explicit else {*thresholds, default}
        return [Point(kind, threshold, threshold == default) for threshold in sorted(chosen)]

    async def _run_pilot(self, kind: str, pilot: Sequence[Task]) -> list[float]:
        """Answer the pilot questions, and choose thresholds by the scores of the draft's steps."""
        policy = self.lineup.default(kind)
        self.tell(f"choosing thresholds of {KINDS[kind].title}")
        answerer = GraphAnswerer(
            Runner(self.settings.under(policy.with_threshold(ACCEPTS_ALL[kind])))
        )

        async def answer(task: Task) -> Reply:
            return await answer_async(answerer, task.prompt)

        replies = await map_concurrently(pilot, answer, self.config.concurrency)
        scores = [row["score"] for reply in replies for row in reply.steps]
        answerer.close()
        known = [score for score in scores if score is not None]
        return spread_thresholds(policy, known, self.config.points) if known else []
