"""Draft confidence: a policy based on the draft's own token probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.base import Policy, StepView, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["DraftConfidence", "Signal"]

Signal = Literal["mean", "lowest", "product"]
"""How the probabilities of a step's tokens become one score: their mean, the lowest one, or their
product, which is the probability of the step."""

_SIGNALS: dict[Signal, Callable[[Sequence[float]], float]] = {
    "mean": lambda logprobs: sum(map(math.exp, logprobs)) / len(logprobs),
    "lowest": lambda logprobs: math.exp(min(logprobs)),
    "product": lambda logprobs: math.exp(sum(logprobs)),
}


@dataclass(frozen=True)
class DraftConfidence(Policy):
    """Escalates if the draft's token probabilities, combined by `signal`, are below `threshold`.

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
    signal: Signal = "mean"
    """`mean`, `lowest` or `product` of the probabilities of the step's tokens."""

    def __post_init__(self) -> None:
        check_range(self, "threshold")
        if self.signal not in _SIGNALS:
            allowed = ", ".join(map(repr, get_args(Signal)))
            raise SettingsError(
                f"signal of DraftConfidence must be one of {allowed}, not {self.signal!r}"
            )

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Combine the probabilities of the step's tokens, in [0, 1]."""
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        if not view.draft.logprobs:
            raise SettingsError(
                "DraftConfidence requires the log-probabilities of the draft's tokens, but the "
                "draft's server returns none. Use another policy or a local draft"
            )
        return _SIGNALS[self.signal](view.draft.logprobs)

    def escalates(self, score: float | None) -> bool:
        """Return True if score < threshold."""
        return score is not None and score < self.threshold
