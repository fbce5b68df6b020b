"""The exact upper bound on the embedded problems: both models write, the checker compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.embedded import Problem, check_step
from langgraph_arbitrage.policies import Policy, StepView

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["ExactOracle"]


@dataclass(frozen=True)
class ExactOracle(Policy):
    """Escalates iff the exact checker finds the target's step right and the draft's wrong.

    It saves nothing, like `Oracle`, and knows no noise: what a perfect PRM would reach.
    """

    needs_target_step: ClassVar[bool] = True

    problems: Mapping[str, Problem] = field(repr=False, compare=False)
    """The problems by their questions."""

    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> float:
        """Δ: 1, 0 or −1."""
        assert view.draft is not None  # noqa: S101 - both have written
        assert view.target is not None  # noqa: S101
        problem = self.problems[view.question]
        texts = [step.text for step in view.history]
        better = check_step(problem, texts, view.target.text)
        return float(better) - float(check_step(problem, texts, view.draft.text))

    def escalates(self, score: float | None) -> bool:
        """Δ > 0."""
        return score is not None and score > 0
