"""Target likelihood: a policy based on the target's probabilities of the draft's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.base import DraftVerification, Policy, StepView, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["TargetLikelihood", "TargetSignal"]

TargetSignal = Literal["rank", "sum"]
"""`rank`: how far the step's least expected token is from the target's own choice. `sum`: the
negative log-likelihood of the step."""

DEFAULT_THRESHOLDS: dict[TargetSignal, float] = {"rank": 3.0, "sum": 12.0}
"""Default threshold of each signal."""


@dataclass(frozen=True)
class TargetLikelihood(Policy):
    """Escalates a draft step that the target finds improbable.

    The target reads each draft step in one forward from its cached prefix. An escalation continues
    from that forward: the target keeps the draft tokens that equal its own choice and decodes the
    rest. The policy needs no scorer and no training. The score of a step with the tokens z_i is

        rank:  max_i (r_i + 1 - p_i),  r_i: number of tokens more probable than z_i
        sum:   -sum_i log p_i, in nats

    and the step is escalated iff score > threshold. With `rank`, a threshold of k accepts a step
    iff each of its tokens is among the k most probable tokens of the target.

    With sampling, p is still the probability at temperature 1, before penalties. An escalated step
    is the step that the target alone would sample with the same seed. If the models have different
    vocabularies, the target scores the step's text in its own tokens.

    A target on a server must return `prompt_logprobs`, as vLLM and `arbitrage serve` do. vLLM then
    computes the whole prompt again for each step, and an escalation is a second request. So the
    policy is meant for local targets.
    """

    threshold_field: ClassVar[str | None] = "threshold"

    threshold: float | None = None
    """Maximum score to accept, at least 0. 0 escalates almost every step. Default: 3 for `rank`, 12
    nats for `sum`."""
    signal: TargetSignal = "rank"
    """`rank` or `sum`."""

    def __post_init__(self) -> None:
        if self.signal not in DEFAULT_THRESHOLDS:
            allowed = ", ".join(map(repr, get_args(TargetSignal)))
            raise SettingsError(
                f"signal of TargetLikelihood must be one of {allowed}, not {self.signal!r}"
            )
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLDS[self.signal])
        check_range(self, "threshold", 0, math.inf)

    def scorer_requests(self, view: StepView) -> Sequence[DraftVerification]:
        """Return the request to verify and score the draft step."""
        return [DraftVerification()]

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Compute the score, at least 0."""
        output = outputs[0]
        if self.signal == "sum":
            return max(0.0, -sum(output.logprobs))
        return max(
            (
                rank + 1 - math.exp(logprob)
                for rank, logprob in zip(output.ranks, output.logprobs, strict=True)
            ),
            default=0.0,
        )

    def escalates(self, score: float | None) -> bool:
        """Return True if score > threshold."""
        assert self.threshold is not None  # noqa: S101 - set in __post_init__
        return score is not None and score > self.threshold
