"""The two single-model baselines: draft only and target only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.policies.base import Policy, StepView

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["AlwaysDraft", "AlwaysTarget"]


@dataclass(frozen=True)
class AlwaysDraft(Policy):
    """Accepts every draft step. The target is never loaded."""

    needs_target: ClassVar[bool] = False

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> None:
        """Return None: this policy uses no score."""
        return

    def escalates(self, score: float | None) -> bool:
        """Return False."""
        return False


@dataclass(frozen=True)
class AlwaysTarget(Policy):
    """Generates every step with the target. The draft is never loaded."""

    needs_draft: ClassVar[bool] = False

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> None:
        """Return None: this policy uses no score."""
        return

    def escalates(self, score: float | None) -> bool:
        """Return True."""
        return True
