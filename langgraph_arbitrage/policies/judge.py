"""SpecReason: the target grades each draft step in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.policies.base import Policy, StepView, TargetQuestion, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["Judge"]

QUESTION = (
    "Evaluate the last reasoning step solely based on factual correctness and logical validity. "
    "Ignore style, phrasing, or overall usefulness—only judge whether the step is objectively "
    "correct and logically follows from prior steps. Assign a score from 0 to 9."
)
REPLY = "I think the quality score is: "
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Judge(Policy):
    """Escalates if the target grades the draft step below `threshold`, on a scale from 0 to 9.

    The target reads the answer so far, the draft step and the grading question from SpecReason
    (arXiv 2504.07891) as the next user turn. The grade is the mean of the digits 0 to 9, weighted
    by their probabilities as the next token of the reply. The step stays in the target's KV cache;
    the question is removed from it. The policy needs no scorer, but it runs the target on every
    step and works only if the target can grade steps.
    """

    threshold_field: ClassVar[str | None] = "threshold"

    threshold: float = 7
    """Minimum grade to accept, in [0, 9]. 0 accepts every step. The default is from SpecReason."""

    def __post_init__(self) -> None:
        check_range(self, "threshold", 0, 9)

    def scorer_requests(self, view: StepView) -> Sequence[TargetQuestion]:
        """Return the grading question for the target."""
        return [TargetQuestion(QUESTION, REPLY, DIGITS)]

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Compute the expected grade, in [0, 9]."""
        logits = outputs[0].logits  # [10]
        highest = max(logits)
        weights = [math.exp(logit - highest) for logit in logits]
        return sum(grade * w for grade, w in enumerate(weights)) / sum(weights)

    def escalates(self, score: float | None) -> bool:
        """Return True if score < threshold."""
        return score is not None and score < self.threshold
