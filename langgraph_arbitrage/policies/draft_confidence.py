"""Draft confidence: a policy based on the draft's own token probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.base import Policy, StepView, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["DraftConfidence"]


@dataclass(frozen=True)
class DraftConfidence(Policy):
    """Escalates if the mean token probability of the draft step is below `threshold`.

    It needs no scorer and adds no compute: the draft's probabilities are available after
    generation. They measure the draft's uncertainty, not whether the target would do better, so
    the policy also escalates steps that neither model can solve.
    """

    threshold_field: ClassVar[str | None] = "threshold"

    threshold: float = 0.99
    """Threshold in [0, 1]. 0 accepts every step; 1 escalates almost every step.

    The default was measured on the embedded pair with 160 held-out problems
    (`benchmarks/confidence_default.py`). It escalates 31 % of the steps and closes 90 % of the gap
    between the draft's and the target's accuracy. Confidence differs between model pairs: choose
    the threshold for your pair on your own questions.
    """

    def __post_init__(self) -> None:
        check_range(self, "threshold")

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Compute the mean of exp(log-probability) over the step's tokens, in [0, 1]."""
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        logprobs = view.draft.logprobs
        if not logprobs:
            raise SettingsError(
                "DraftConfidence requires the log-probabilities of the draft's tokens, but the "
                "draft's server returns none. Use another policy or a local draft"
            )
        return sum(map(math.exp, logprobs)) / len(logprobs)

    def escalates(self, score: float | None) -> bool:
        """Return True if score < threshold."""
        return score is not None and score < self.threshold
