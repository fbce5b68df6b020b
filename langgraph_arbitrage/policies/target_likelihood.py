"""Target likelihood: a policy based on the target's probability of the draft's step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.policies.base import DraftVerification, Policy, StepView, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["TargetLikelihood"]


@dataclass(frozen=True)
class TargetLikelihood(Policy):
    """Escalates a draft step that is too improbable under the target.

    The score is the negative log-likelihood of the step's text under the target, in nats:

        score = -log p_target(z_d | x),    escalate iff score > threshold

    The target reads each draft step in one forward from its cached prefix. An escalation continues
    from that forward: the target keeps the draft tokens that equal its own choice and decodes the
    rest. The policy needs no scorer and no training.

    A target on a server must return `prompt_logprobs`, as vLLM and `arbitrage serve` do. vLLM then
    computes the whole prompt again for each step, and an escalation is a second request. So the
    policy is meant for local targets.

    With sampling, the score is still the likelihood at temperature 1, before penalties. An
    escalated step is the step that the target alone would sample with the same seed.
    """

    threshold_field: ClassVar[str | None] = "threshold"

    threshold: float = 10.0
    """Maximum score to accept, in nats; at least 0. 0 escalates almost every step."""

    def __post_init__(self) -> None:
        check_range(self, "threshold", 0, math.inf)

    def scorer_requests(self, view: StepView) -> Sequence[DraftVerification]:
        """Return the request to verify and score the draft step."""
        return [DraftVerification()]

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Compute the negative log-likelihood of the step in nats, at least 0."""
        return max(0.0, -sum(outputs[0].logprobs))

    def escalates(self, score: float | None) -> bool:
        """Return True if score > threshold."""
        return score is not None and score > self.threshold
