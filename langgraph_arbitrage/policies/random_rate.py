"""The control policy: escalate at a fixed rate, independent of the step's content."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.policies.base import Policy, StepView, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Policy):
    """Escalates each step with probability `rate`, independent of its content.

    A baseline for policies that score the step. The draw depends only on `seed`, the question and
    the step's index, so a resumed run makes the same decisions.
    """

    threshold_field: ClassVar[str | None] = "rate"

    rate: float = 0.5
    """Fraction of steps to escalate, in [0, 1]."""
    seed: int = 0
    """Seed of the random draws."""

    def __post_init__(self) -> None:
        check_range(self, "rate")

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Draw a number uniformly from [0, 1)."""
        return random.Random(f"{self.seed}/{view.question}/{view.index}").random()

    def escalates(self, score: float | None) -> bool:
        """Return True if score < rate."""
        return score is not None and score < self.rate
