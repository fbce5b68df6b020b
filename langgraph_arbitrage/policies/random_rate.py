"""The control: escalate blindly, at a given rate."""

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
    """Escalates a step with probability `rate`, whatever it says.

    What any judgement has to beat. The draw depends on the seed, the question and the step's
    index alone, so a resumed run decides as the unbroken one.
    """

    threshold_field: ClassVar[str | None] = "rate"

    rate: float = 0.5
    """Share of the steps to escalate, in [0, 1]."""
    seed: int = 0
    """Another seed is another pattern."""

    def __post_init__(self) -> None:
        check_range(self, "rate")

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """A number drawn uniformly from [0, 1)."""
        return random.Random(f"{self.seed}/{view.question}/{view.index}").random()

    def escalates(self, score: float | None) -> bool:
        """Score < rate."""
        return score is not None and score < self.rate
