"""What a sweep asks at which points: the questions that fit, and thresholds found on a pilot."""

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
    laid_out,
    rates,
)
from langgraph_arbitrage.evaluation.reply import GraphAnswerer, Reply, answered
from langgraph_arbitrage.runner import Runner
from langgraph_arbitrage.training.concurrency import map_concurrently

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Finds questions and thresholds.

    Args:
        lineup: Models and judges.
        config: How many points, and questions of the pilot.
        explicit: Thresholds that were named, by policy: those are taken as they are.
        settings: Those that the sweep answers with.
        tell: Hears what is being done.
    """

    lineup: Lineup
    config: EvaluateConfig
    explicit: dict[str, list[float]]
    settings: ArbitrageSettings
    tell: Callable[[str], None]

    async def left_out(self, tasks: Sequence[Task]) -> list[LeftOut]:
        """The questions that a model cannot read."""
        found = []
        team = Runner(self.settings.under(self.lineup.default("confidence")))
        for task in tasks:
            try:
                await asyncio.to_thread(team.check, task.prompt)
            except ContextLengthError as error:
                found.append(LeftOut(task.question, task.reference, str(error)))
        team.close()
        return found

    async def points(self, kind: str, tasks: Sequence[Task]) -> list[Point]:
        """The points of a policy, laid out on the first of these questions."""
        default = None if kind == ASSISTED else self.lineup.threshold(kind)
        if default is None:
            return [Point(kind)]
        if kind in self.explicit:
            found = self.explicit[kind]
            for threshold in found:
                _ = self.lineup.policy(Point(kind, threshold))  # outside its range it fails here
        elif kind == "random":
            found = [round(rate, 3) for rate in rates(self.config.points)]
            return [Point(kind, rate) for rate in found]  # no rate is a default that one would use
        else:
            found = await self._piloted(kind, tasks[: self.config.pilot])
        default = float(f"{default:.6g}")
        every = sorted({*found, default} if kind not in self.explicit else {*found})
        return [Point(kind, threshold, threshold == default) for threshold in every]

    async def _piloted(self, kind: str, pilot: Sequence[Task]) -> list[float]:
        policy = self.lineup.default(kind)
        self.tell(f"laying out {KINDS[kind].title}")
        answerer = GraphAnswerer(
            Runner(self.settings.under(policy.with_threshold(ACCEPTS_ALL[kind])))
        )

        async def one(task: Task) -> Reply:
            return await answered(answerer, task.prompt)

        replies = await map_concurrently(pilot, one, self.config.concurrency)
        scores = [row["score"] for reply in replies for row in reply.steps]
        answerer.close()
        known = [score for score in scores if score is not None]
        return laid_out(policy, known, self.config.points) if known else []
