"""Who says how good a step is while rows are collected: a PRM, or the embedded exact checker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from langgraph_arbitrage.embedded import check_step
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.scorers import Judgement, StepScorer
from langgraph_arbitrage.training.prefix import Prefix, ask_scorer, past_steps
from langgraph_arbitrage.training.questions import Question

__all__ = ["CHECKER", "CheckerVerdict", "ScorerVerdict", "Verdict"]

CHECKER = "checker"
"""What `--prm` says for the exact checker of the embedded problems."""


class Verdict(ABC):
    """Judges the steps of one trajectory."""

    @abstractmethod
    async def judge(self, prefix: Prefix, step: str) -> Judgement:
        """A step from a prefix."""

    @abstractmethod
    def took(self, judgement: Judgement) -> None:
        """Hear that the trajectory goes on with the step of this judgement."""


class ScorerVerdict(Verdict):
    """A step scorer; what it notes at one step it is handed back at the next ones."""

    def __init__(self, models: Models, scorer: StepScorer) -> None:
        self._models = models
        self._scorer = scorer
        self._memory: list[tuple[float, ...]] = []

    async def judge(self, prefix: Prefix, step: str) -> Judgement:
        """h(x, z)."""
        history = [
            replace(past, memory=memory)
            for past, memory in zip(past_steps(prefix.steps), self._memory, strict=True)
        ]
        ask = self._scorer.ask(prefix.question, history, step)
        return self._scorer.judge(history, await ask_scorer(self._models, ask))

    def took(self, judgement: Judgement) -> None:
        """Keep what was noted."""
        self._memory.append(judgement.memory)


class CheckerVerdict(Verdict):
    """The exact checker: 1 for a right step of an embedded problem, 0 for a wrong one."""

    def __init__(self, question: Question) -> None:
        if question.problem is None:
            raise DataError(
                "the exact checker knows embedded problems only: give the questions as "
                "embedded:N:SEED, or a PRM's checkpoint as --prm"
            )
        self._problem = question.problem

    async def judge(self, prefix: Prefix, step: str) -> Judgement:
        """1 or 0."""
        return Judgement(float(check_step(self._problem, prefix.texts, step)))

    def took(self, judgement: Judgement) -> None:
        """It needs no memory: the steps so far say it all."""
