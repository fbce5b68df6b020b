"""Score the steps of answers by a PRM or the exact checker, outside of the measured time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from langgraph_arbitrage.evaluation.dataset import Task
from langgraph_arbitrage.evaluation.reply import Reply
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.training.questions import Question
from langgraph_arbitrage.training.step_grader import (
    CheckerGrader,
    ScorerGrader,
    StepContext,
    StepGrader,
)

__all__ = ["StepScores"]


@dataclass
class StepScores:
    """Scores the steps of answers. Different answers to a question share the cached scores.

    Args:
        scorer: The PRM; `checker` for the exact checker; None for no scores.
        models: Provides the PRM's engine.
    """

    scorer: StepScorer | Literal["checker"] | None
    models: Models
    _graders: dict[tuple[str, bool], StepGrader] = field(default_factory=dict, init=False)

    async def add(self, task: Task, reply: Reply) -> None:
        """Add the scores `s_d` and `s_t` to the steps of an answer.

        `s_d` stays None for a step without a draft step, and `s_t` for one without a target step.
        """
        drafted = any(row["writer"] == "draft" or row["draft"] for row in reply.steps)
        # A grader assumes that the first step it scores in a context is the draft's step, so
        # answers without draft steps need a separate grader.
        grader = self._grader(task, by_target=not drafted)
        if grader is None:
            return
        context = StepContext()
        for row in reply.steps:
            by_target = row["writer"] != "draft"
            draft = row["draft"] if by_target else row["text"]
            if draft is not None:
                row["s_d"] = round(await grader.grade(context, draft), 4)
            if by_target:
                row["s_t"] = round(await grader.grade(context, row["text"]), 4)
            context = StepContext((*context.texts, row["text"]), (*context.tags, int(by_target)))

    def forget(self, task: Task) -> None:
        """Drop the cached scores of a question."""
        for by_target in (False, True):
            self._graders.pop((task.id, by_target), None)

    def _grader(self, task: Task, *, by_target: bool) -> StepGrader | None:
        key = task.id, by_target
        if self.scorer is not None and key not in self._graders:
            if isinstance(self.scorer, str):
                self._graders[key] = CheckerGrader(Question(task.question, problem=task.problem))
            else:
                self._graders[key] = ScorerGrader(task.prompt, self.models, self.scorer)
        return self._graders.get(key)
