"""An oracle policy that uses the exact checker of embedded problems: an upper bound for routers."""

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
    """Escalates iff the exact checker finds the target's step right and the draft's step wrong.

    Both models write every step, so this policy saves no time. Its accuracy is that of an `Oracle`
    with a perfect PRM.
    """

    needs_target_step: ClassVar[bool] = True

    problems: Mapping[str, Problem] = field(repr=False, compare=False)
    """Problems by the text of their question."""

    def score(self, view: StepView, answers: Sequence[ScoreOutput]) -> float:
        """Compute Δ = 1 if the target's step is right, minus 1 if the draft's step is right."""
        assert view.draft is not None  # noqa: S101 - needs_target_step: both steps exist
        assert view.target is not None  # noqa: S101
        problem = self.problems[view.question]
        texts = [step.text for step in view.history]
        target_right = check_step(problem, texts, view.target.text)
        draft_right = check_step(problem, texts, view.draft.text)
        return float(target_right) - float(draft_right)

    def escalates(self, score: float | None) -> bool:
        """Return whether Δ > 0."""
        return score is not None and score > 0
