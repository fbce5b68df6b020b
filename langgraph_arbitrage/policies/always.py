"""The two ends of the scale: all by the draft, all by the target."""

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
    """Accepts every step: the draft model alone. The target is never loaded."""

    needs_target: ClassVar[bool] = False

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> None:
        """There is nothing to judge."""
        return

    def escalates(self, score: float | None) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class AlwaysTarget(Policy):
    """The target writes every step, alone. The draft is never loaded."""

    needs_draft: ClassVar[bool] = False

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> None:
        """There is nothing to judge."""
        return

    def escalates(self, score: float | None) -> bool:
        """Always."""
        return True
