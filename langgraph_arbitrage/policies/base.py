"""The policy protocol: scorer requests, scores and the escalation rule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.calibration import parse_threshold_rule

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = [
    "Decision",
    "DraftVerification",
    "PastStep",
    "Policy",
    "PolicyRequest",
    "ScorerRequest",
    "StepText",
    "StepView",
    "TargetQuestion",
    "Writer",
]

Writer = Literal["draft", "target"]
Kind = Literal[
    "causal-lm",
    "sequence-classification",
    "token-classification",
    "value-head",
    "process-reward",
]
"""Type of head on a scorer's model."""


@dataclass(frozen=True)
class PastStep:
    """A committed step of the answer."""

    writer: Writer
    text: str
    tokens: int
    policy_state: tuple[float, ...] = ()
    """`Decision.policy_state` of this step."""


@dataclass(frozen=True)
class StepText:
    """A step written by a model."""

    text: str
    tokens: int
    logprobs: tuple[float, ...] = ()
    """Log-probability of each token under the model that wrote it, in nats. Empty if the model's
    server does not return log-probabilities."""


@dataclass(frozen=True)
class StepView:
    """The policy's input for one step.

    Decisions must depend only on the view and the scorer outputs, so that a resumed run repeats
    them.
    """

    question: str
    """Text of the last human message."""
    history: tuple[PastStep, ...]
    """Committed steps, in order."""
    seed: int
    """Seed of the run, for policies that draw random numbers."""
    draft: StepText | None = None
    """The draft's step; None before it is generated."""
    target: StepText | None = None
    """The target's step from the same prefix. Set only if `Policy.needs_target_step` is True."""
    thinking: bool = False
    """True if the step begins inside the thinking of the answer (`<think>`)."""

    @property
    def index(self) -> int:
        """Zero-based index of the step."""
        return len(self.history)


@dataclass(frozen=True)
class ScorerRequest:
    """Input for one scorer forward, which returns a `ScoreOutput`."""

    model: str
    """Checkpoint of the scorer."""
    pieces: tuple[str, ...]
    """The text, split into pieces that are tokenized separately. A later request that starts with
    the same pieces reuses their KV cache."""
    kind: Kind = "token-classification"
    """Type of head on the model."""
    scored: int = 1
    """Causal LM only: number of trailing pieces whose tokens are scored."""
    choices: tuple[str, ...] = ()
    """Causal LM only: single-token texts to compare as the next token. `ScoreOutput.logits` then
    holds one logit per choice, and no tokens are scored."""


@dataclass(frozen=True)
class TargetQuestion:
    """A question to the target about the draft's step.

    The question follows the step as the next turn of the conversation. With a cached prefix, the
    target computes only the step and the question.
    """

    question: str
    """Text of the user turn after the step."""
    reply: str
    """Text that opens the target's reply."""
    choices: tuple[str, ...]
    """Single-token continuations of the reply to compare. `ScoreOutput.logits` holds one logit per
    choice."""


@dataclass(frozen=True)
class DraftVerification:
    """A request that the target verifies and scores the draft's step in one forward.

    `ScoreOutput.logprobs`, `entropies` and `ranks` describe the step's tokens under the target. A
    target with another vocabulary scores the step's text in its own tokens. If the policy
    escalates, the target continues from this forward and computes no token twice.
    """


PolicyRequest = ScorerRequest | TargetQuestion | DraftVerification
"""A request whose `ScoreOutput` a policy receives."""


@dataclass(frozen=True)
class Decision:
    """A policy's decision on a draft step."""

    score: float | None
    """The score the rule was applied to; None if the step was not scored."""
    escalate: bool
    """True if the target must regenerate the step."""
    policy_state: tuple[float, ...] = ()
    """Numbers stored with the step. Later steps read them from `PastStep.policy_state`."""


@dataclass(frozen=True)
class Policy(ABC):
    """Decides for each draft step whether the target regenerates it.

    Subclass it as a frozen dataclass that implements `score` and `escalates`.

    Example:
        >>> from dataclasses import dataclass
        >>> from langgraph_arbitrage import Policy
        >>> @dataclass(frozen=True)
        ... class LongSteps(Policy):
        ...     '''Escalates if the draft step has more than `limit` characters.'''
        ...     limit: int = 200
        ...     def score(self, view, outputs):
        ...         return len(view.draft.text)
        ...     def escalates(self, score):
        ...         return score > self.limit
    """

    needs_draft: ClassVar[bool] = True
    """True if the policy can use the draft model."""
    needs_target: ClassVar[bool] = True
    """True if the policy can use the target model."""
    needs_target_step: ClassVar[bool] = False
    """True if `score` reads the target's step. The target then generates every step."""
    threshold_field: ClassVar[str | None] = None
    """Name of the field that the chat model's `threshold=` sets; None if the policy has no
    threshold."""

    def skips_draft(self, view: StepView) -> bool:
        """Return True if the target generates this step without a draft."""
        return not self.needs_draft

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Return the checkpoint and kind of each scorer, so that they can be checked at startup."""
        return ()

    def validate_pair(self, draft: str, target: str) -> None:  # noqa: B027 - optional
        """Raise if the policy does not support this pair of models.

        Called before generation starts.

        Args:
            draft: Draft checkpoint, as in the settings.
            target: Target checkpoint, as in the settings.
        """

    def scorer_requests(self, view: StepView) -> Sequence[PolicyRequest]:
        """Return the requests whose outputs `score` receives, in order."""
        return ()

    def tokens_left(self, view: StepView) -> int | None:
        """Return the maximum number of tokens the target may generate for this step.

        None means that only the limits of the run apply.
        """
        return None

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Score the draft step and apply the escalation rule.

        Args:
            view: The step and its context; `view.draft` is set.
            outputs: One output for each of `scorer_requests`, in the same order.
        """
        score = self.score(view, outputs)
        return Decision(score, self.escalates(score))

    @abstractmethod
    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float | None:
        """Compute the score of the draft step; None if the policy uses no score."""

    @abstractmethod
    def escalates(self, score: float | None) -> bool:
        """Return True if a step with this score is escalated to the target."""

    def with_threshold(self, threshold: float | str) -> Self:
        """Return a copy of this policy with another threshold.

        Raises:
            SettingsError: The policy has no threshold, or the value is outside its range.
        """
        if self.threshold_field is None:
            raise SettingsError(
                f"threshold={threshold!r} was set, but {type(self).__name__} has no threshold. "
                "Remove it or use another policy"
            )
        if isinstance(threshold, str):
            parse_threshold_rule(threshold)
            raise SettingsError(
                f"threshold {threshold!r} requires a calibrated router, but "
                f"{type(self).__name__} does not use one. Set a number instead"
            )
        return replace(self, **{self.threshold_field: threshold})


def check_range(policy: Policy, field: str, low: float = 0, high: float = 1) -> None:
    """Raise `SettingsError` unless the field is a number in [low, high]."""
    value = getattr(policy, field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        allowed = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise SettingsError(
            f"{field} of {type(policy).__name__} must be a number {allowed}, not {value!r}"
        )
