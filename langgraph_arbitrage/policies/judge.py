"""SpecReason: the target itself grades the draft's step, in one forward pass."""

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
    """Escalates iff the target grades the draft's step below `threshold`, from 0 to 9.

    The answer so far, the step, and the source's question as the user's next turn; the grade is
    the mean of the digits 0 to 9, each weighed by its probability as the next token of the
    target's reply. The target reads each step once and keeps it; the question is forgotten again.
    No other model is needed, but the target works at every step, and must be able to judge.
    Source: arXiv 2504.07891.
    """

    threshold_field: ClassVar[str | None] = "threshold"

    threshold: float = 7
    """In [0, 9]: 0 accepts everything. The default is the source's."""

    def __post_init__(self) -> None:
        check_range(self, "threshold", 0, 9)

    def scorer_requests(self, view: StepView) -> Sequence[TargetQuestion]:
        """One, to the target."""
        return [TargetQuestion(QUESTION, REPLY, DIGITS)]

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """The expected grade, in [0, 9]."""
        logits = outputs[0].logits
        highest = max(logits)
        weights = [math.exp(logit - highest) for logit in logits]
        return sum(grade * w for grade, w in enumerate(weights)) / sum(weights)

    def escalates(self, score: float | None) -> bool:
        """Score < threshold."""
        return score is not None and score < self.threshold
