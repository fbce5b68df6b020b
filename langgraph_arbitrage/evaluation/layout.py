"""Choose the questions and points of a sweep, with thresholds from a pilot run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import ContextLengthError
from langgraph_arbitrage.evaluation.all_scores import AllScores
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.dataset import LeftOut, Task
from langgraph_arbitrage.evaluation.points import (
    ASSISTED,
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
        explicit: Thresholds set by the user, by policy.
        settings: Settings of the sweep.
        tell: Receives progress messages.
        count_tokens: Receives the number of tokens of each generated step.
    """

    lineup: Lineup
    config: EvaluateConfig
    explicit: dict[str, list[float]]
    settings: ArbitrageSettings
    tell: Callable[[str], None]
    count_tokens: Callable[[int], None]

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

    async def draft_scores(
        self, kinds: Sequence[str], tasks: Sequence[Task]
    ) -> list[dict[str, float | None]]:
        """Score the draft's answers to the pilot questions with all policies, in one pass.

        Args:
            kinds: Policies of the sweep. Those without a threshold, and random, are skipped.
            tasks: Questions of the sweep. The first ones are the pilot questions.

        Returns:
            The scores of each step by policy. Empty if no policy has a score.
        """
        policies = {
            kind: self.lineup.default(kind)
            for kind in kinds
            if kind not in (ASSISTED, "random") and self.lineup.threshold(kind) is not None
        }
        if not policies:
            return []
        self.tell("scoring the draft's steps with all policies")
        policy = AllScores(policies)
        answerer = GraphAnswerer(Runner(self.settings.under(policy)), self.count_tokens)

        async def answer(task: Task) -> Reply:
            return await answer_async(answerer, task.prompt)

        await map_concurrently(tasks[: self.config.pilot], answer, self.config.concurrency)
        answerer.close()
        return policy.rows

    def points(self, kind: str, scores: Sequence[Mapping[str, float | None]]) -> list[Point]:
        """Choose the points of a policy.

        Args:
            kind: The policy.
            scores: Scores of the pilot's draft steps, by policy.
        """
        default = None if kind == ASSISTED else self.lineup.threshold(kind)
        if default is None:
            return [Point(kind)]
        if kind == "random":
            if kind not in self.explicit:
                # No rate is marked as the default: a random policy has no sensible default.
                return [Point(kind, round(rate, 3)) for rate in rates(self.config.points)]
            return [Point(kind, rate) for rate in sorted({*self._explicit(kind)})]
        default = float(f"{default:.6g}")
        if kind in self.explicit:
            chosen = {*self._explicit(kind)}
        else:
            known = [score for row in scores if (score := row[kind]) is not None]
            policy = self.lineup.default(kind)
            chosen = {default, *spread_thresholds(policy, known, self.config.points)}
        return [Point(kind, threshold, threshold == default) for threshold in sorted(chosen)]

    def _explicit(self, kind: str) -> list[float]:
        """Return the thresholds set by the user. Raise if one is out of range."""
        for threshold in self.explicit[kind]:
            _ = self.lineup.policy(Point(kind, threshold))
        return self.explicit[kind]
