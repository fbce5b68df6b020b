"""Policy wrappers that change part of another policy's behavior.

Wrappers can be nested. The outermost wrapper takes precedence.

Example:
    >>> from langgraph_arbitrage import Budget, DraftConfidence, FirstSteps
    >>> Budget(FirstSteps(DraftConfidence(0.9), steps=1), share=0.5).with_threshold(0.8).policy
    FirstSteps(policy=DraftConfidence(threshold=0.8, signal='mean'), steps=1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.base import (
    Decision,
    Kind,
    Policy,
    PolicyRequest,
    StepText,
    StepView,
    check_range,
)

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = [
    "Budget",
    "Cascade",
    "EscalateRepeats",
    "FirstSteps",
    "PolicyOption",
    "WhileThinking",
    "check_count",
]


@dataclass(frozen=True)
class PolicyOption(Policy):
    """Base class of the wrappers: delegates every method to the wrapped policy."""

    policy: Policy
    """The wrapped policy, which may itself be a wrapper."""

    @property
    def needs_draft(self) -> bool:  # type: ignore[override]
        """`needs_draft` of the wrapped policy."""
        return self.policy.needs_draft

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """`needs_target` of the wrapped policy."""
        return self.policy.needs_target

    @property
    def needs_target_step(self) -> bool:  # type: ignore[override]
        """`needs_target_step` of the wrapped policy."""
        return self.policy.needs_target_step

    def skips_draft(self, view: StepView) -> bool:
        """Delegate to the wrapped policy."""
        return self.policy.skips_draft(view)

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Return the wrapped policy's scorers."""
        return self.policy.scorers()

    def validate_pair(self, draft: str, target: str) -> None:
        """Delegate to the wrapped policy."""
        self.policy.validate_pair(draft, target)

    def scorer_requests(self, view: StepView) -> Sequence[PolicyRequest]:
        """Return the wrapped policy's requests; none if the wrapper decides without a score."""
        return () if self._override(view) else self.policy.scorer_requests(view)

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Return the wrapper's own decision if it has one, else the wrapped policy's."""
        return self._override(view) or self.policy.decide(view, outputs)

    def _override(self, view: StepView) -> Decision | None:
        """Return the wrapper's decision on the draft step; None leaves it to the wrapped policy."""
        return None

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float | None:
        """Compute the wrapped policy's score."""
        return self.policy.score(view, outputs)

    def escalates(self, score: float | None) -> bool:
        """Apply the wrapped policy's rule."""
        return self.policy.escalates(score)

    def tokens_left(self, view: StepView) -> int | None:
        """Delegate to the wrapped policy."""
        return self.policy.tokens_left(view)

    def with_threshold(self, threshold: float | str) -> Self:
        """Return a copy whose wrapped policy has another threshold."""
        return replace(self, policy=self.policy.with_threshold(threshold))


@dataclass(frozen=True)
class FirstSteps(PolicyOption):
    """Generates the first `steps` steps of an answer with the target, without a draft."""

    steps: int = 1
    """Number of steps, 0 or more."""

    def __post_init__(self) -> None:
        check_count(self, "steps")

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """True if `steps` is positive or the wrapped policy needs the target."""
        return self.steps > 0 or self.policy.needs_target

    def skips_draft(self, view: StepView) -> bool:
        """Return True for the first `steps` steps and those the wrapped policy skips."""
        return view.index < self.steps or self.policy.skips_draft(view)

    def tokens_left(self, view: StepView) -> int | None:
        """Return None for the first `steps` steps, else the wrapped policy's limit."""
        return None if view.index < self.steps else self.policy.tokens_left(view)


@dataclass(frozen=True)
class EscalateRepeats(PolicyOption):
    """Escalates a draft step that repeats an earlier step of the answer.

    A repeated step indicates that the draft is stuck in a loop. The comparison ignores whitespace.
    Repeated steps are not scored.
    """

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """True if the wrapped policy needs the draft, whose steps may repeat, or the target."""
        return self.policy.needs_draft or self.policy.needs_target

    def _override(self, view: StepView) -> Decision | None:
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        step = view.draft.text.split()
        if any(past.text.split() == step for past in view.history):
            return Decision(None, escalate=True)
        return None


@dataclass(frozen=True)
class Cascade(PolicyOption):
    """Accepts the draft steps that `first` accepts; the wrapped policy decides the others.

    `first` should cost little, such as `DraftConfidence`. The wrapped policy, such as
    `TargetLikelihood`, then runs only on unclear steps. `with_threshold` sets the threshold of the
    wrapped policy.

    Example:
        >>> from langgraph_arbitrage import Cascade, DraftConfidence, TargetLikelihood
        >>> Cascade(TargetLikelihood(), first=DraftConfidence(0.5, signal="lowest")).first.signal
        'lowest'
    """

    first: Policy = field(kw_only=True)
    """Policy that decides without models: one with no `scorer_requests`."""

    def __post_init__(self) -> None:
        first, sample = self.first, StepView("", (), 0, draft=StepText("", 0))
        runs_models = first.scorers() or first.scorer_requests(sample) or first.needs_target_step
        if runs_models or not first.needs_draft:
            raise SettingsError(
                f"first={self.first!r} of Cascade must decide by the draft's step alone. Use "
                "DraftConfidence, or a policy of your own without scorers"
            )

    def _override(self, view: StepView) -> Decision | None:
        decision = self.first.decide(view, ())
        return None if decision.escalate else decision


@dataclass(frozen=True)
class WhileThinking(PolicyOption):
    """Applies another policy to the steps inside the thinking of an answer (`<think>`).

    Example:
        >>> from langgraph_arbitrage import TargetLikelihood, WhileThinking
        >>> WhileThinking(TargetLikelihood(3), thinking=TargetLikelihood(5)).thinking.threshold
        5
    """

    thinking: Policy = field(kw_only=True)
    """Policy for steps that begin inside the thinking."""

    def _of(self, view: StepView) -> Policy:
        return self.thinking if view.thinking else self.policy

    @property
    def needs_draft(self) -> bool:  # type: ignore[override]
        """True if either policy needs the draft."""
        return self.policy.needs_draft or self.thinking.needs_draft

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """True if either policy needs the target."""
        return self.policy.needs_target or self.thinking.needs_target

    @property
    def needs_target_step(self) -> bool:  # type: ignore[override]
        """True if either policy needs the target's step."""
        return self.policy.needs_target_step or self.thinking.needs_target_step

    def skips_draft(self, view: StepView) -> bool:
        """Delegate to the policy for the step."""
        return self._of(view).skips_draft(view)

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Return the scorers of both policies."""
        return [*dict.fromkeys([*self.policy.scorers(), *self.thinking.scorers()])]

    def validate_pair(self, draft: str, target: str) -> None:
        """Delegate to both policies."""
        self.policy.validate_pair(draft, target)
        self.thinking.validate_pair(draft, target)

    def scorer_requests(self, view: StepView) -> Sequence[PolicyRequest]:
        """Return the requests of the policy for the step."""
        return self._of(view).scorer_requests(view)

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Return the decision of the policy for the step."""
        return self._of(view).decide(view, outputs)

    def tokens_left(self, view: StepView) -> int | None:
        """Delegate to the policy for the step."""
        return self._of(view).tokens_left(view)


@dataclass(frozen=True)
class Budget(PolicyOption):
    """Limits the target's part of an answer and accepts draft steps once the limit is reached.

    For every n, the target generates at most `share` · n of the first n steps. The limit therefore
    holds for an answer of any length. Draft steps accepted because of the limit are not scored.
    """

    share: float = 1.0
    """Maximum fraction of steps generated by the target, in [0, 1]."""
    tokens: int | None = None
    """Maximum number of tokens the target generates per answer. A step that reaches it is cut off.
    Default: None, no limit."""

    def __post_init__(self) -> None:
        check_range(self, "share")
        if self.tokens is not None:
            check_count(self, "tokens")

    @property
    def needs_draft(self) -> bool:  # type: ignore[override]
        """True if the budget is limited or the wrapped policy needs the draft."""
        return self.share < 1 or self.tokens is not None or self.policy.needs_draft

    def skips_draft(self, view: StepView) -> bool:
        """Delegate to the wrapped policy; return False if the budget is used up."""
        return self._within_budget(view) and self.policy.skips_draft(view)

    def tokens_left(self, view: StepView) -> int | None:
        """Return the smaller of the remaining budget and the wrapped policy's limit."""
        limits = [self.policy.tokens_left(view)]
        if self.tokens is not None:
            limits.append(self.tokens - _target_usage(view, count_tokens=True))
        return min((n for n in limits if n is not None), default=None)

    def _override(self, view: StepView) -> Decision | None:
        return None if self._within_budget(view) else Decision(None, escalate=False)

    def _within_budget(self, view: StepView) -> bool:
        steps = _target_usage(view) + 1
        # The tolerance absorbs rounding, as in 0.29 * 100 < 29.
        within_share = steps <= self.share * (view.index + 1) + 1e-9
        left = self.tokens_left(view)
        return within_share and (left is None or left > 0)


def _target_usage(view: StepView, *, count_tokens: bool = False) -> int:
    """Return the number of committed steps by the target, or of their tokens."""
    return sum(s.tokens if count_tokens else 1 for s in view.history if s.writer == "target")


def check_count(holder: object, field: str) -> None:
    """Raise `SettingsError` unless the field is an integer of 0 or more."""
    value = getattr(holder, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SettingsError(
            f"{field} of {type(holder).__name__} must be an integer of 0 or more, not {value!r}"
        )
