"""Options on top of any policy: each wraps another one, and the outermost has the last word.

Example:
    >>> from langgraph_arbitrage import Budget, DraftConfidence, FirstSteps
    >>> Budget(FirstSteps(DraftConfidence(0.9), steps=1), share=0.5).with_threshold(0.8).policy
    FirstSteps(policy=DraftConfidence(threshold=0.8), steps=1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.base import (
    Decision,
    Kind,
    Policy,
    ScorerRequest,
    StepView,
    TargetQuestion,
    check_range,
)

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["Budget", "EscalateRepeats", "FirstSteps", "PolicyOption", "check_count"]


@dataclass(frozen=True)
class PolicyOption(Policy):
    """Does what the policy in it does; options change a part of that."""

    policy: Policy
    """The policy that decides otherwise; it may be an option itself."""

    @property
    def needs_draft(self) -> bool:  # type: ignore[override]
        """As the policy says."""
        return self.policy.needs_draft

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """As the policy says."""
        return self.policy.needs_target

    @property
    def needs_target_step(self) -> bool:  # type: ignore[override]
        """As the policy says."""
        return self.policy.needs_target_step

    def skips_draft(self, view: StepView) -> bool:
        """As the policy says."""
        return self.policy.skips_draft(view)

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Those of the policy."""
        return self.policy.scorers()

    def validate_pair(self, draft: str, target: str) -> None:
        """Have the policy look at the pair."""
        self.policy.validate_pair(draft, target)

    def scorer_requests(self, view: StepView) -> Sequence[ScorerRequest | TargetQuestion]:
        """The policy's, unless the option decides by itself."""
        return () if self._decided(view) else self.policy.scorer_requests(view)

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """The policy's decision, unless the option decides by itself."""
        return self._decided(view) or self.policy.decide(view, outputs)

    def _decided(self, view: StepView) -> Decision | None:
        """What the option decides of a draft's step without asking."""
        return None

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float | None:
        """The policy's score."""
        return self.policy.score(view, outputs)

    def escalates(self, score: float | None) -> bool:
        """The policy's rule."""
        return self.policy.escalates(score)

    def tokens_left(self, view: StepView) -> int | None:
        """As the policy says."""
        return self.policy.tokens_left(view)

    def with_threshold(self, threshold: float | str) -> Self:
        """The same option on the policy with another threshold."""
        return replace(self, policy=self.policy.with_threshold(threshold))


@dataclass(frozen=True)
class FirstSteps(PolicyOption):
    """The target writes the first `steps` steps of an answer, without a draft."""

    steps: int = 1

    def __post_init__(self) -> None:
        check_count(self, "steps")

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """Whether there are such steps, or the policy needs it."""
        return self.steps > 0 or self.policy.needs_target

    def skips_draft(self, view: StepView) -> bool:
        """Whether this is one of them, or the policy says so."""
        return view.index < self.steps or self.policy.skips_draft(view)

    def tokens_left(self, view: StepView) -> int | None:
        """No limit for these steps, but what an option around this one says."""
        return None if view.index < self.steps else self.policy.tokens_left(view)


@dataclass(frozen=True)
class EscalateRepeats(PolicyOption):
    """Escalates a draft's step that repeats an earlier step of the answer: the draft is in a loop.

    Blanks do not count. Such a step is not scored.
    """

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        """Whether the draft may write at all: then it may repeat itself."""
        return self.policy.needs_draft or self.policy.needs_target

    def _decided(self, view: StepView) -> Decision | None:
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        step = view.draft.text.split()
        if any(past.text.split() == step for past in view.history):
            return Decision(None, escalate=True)
        return None


@dataclass(frozen=True)
class Budget(PolicyOption):
    """Lets the target write no more than a part of an answer; then every draft step is accepted.

    Of an answer's first n steps at most `share` · n are the target's, for every n: it is kept
    however short the answer turns out. Steps accepted for want of budget are not scored.
    """

    share: float = 1.0
    """Most steps of the target, as a share of the steps, in [0, 1]."""
    tokens: int | None = None
    """Most tokens of the target an answer; a step of its is cut there. None for no such limit."""

    def __post_init__(self) -> None:
        check_range(self, "share")
        if self.tokens is not None:
            check_count(self, "tokens")

    @property
    def needs_draft(self) -> bool:  # type: ignore[override]
        """Whether the budget may run out, or the policy needs it."""
        return self.share < 1 or self.tokens is not None or self.policy.needs_draft

    def skips_draft(self, view: StepView) -> bool:
        """As the policy says, while there is budget."""
        return self._allows(view) and self.policy.skips_draft(view)

    def tokens_left(self, view: StepView) -> int | None:
        """What is left of the tokens."""
        limits = [self.policy.tokens_left(view)]
        if self.tokens is not None:
            limits.append(self.tokens - _by_target(view, count_tokens=True))
        return min((n for n in limits if n is not None), default=None)

    def _decided(self, view: StepView) -> Decision | None:
        return None if self._allows(view) else Decision(None, escalate=False)

    def _allows(self, view: StepView) -> bool:
        steps = _by_target(view) + 1
        within_share = steps <= self.share * (view.index + 1) + 1e-9
        left = self.tokens_left(view)
        return within_share and (left is None or left > 0)


def _by_target(view: StepView, *, count_tokens: bool = False) -> int:
    """Steps that the target wrote so far, or their tokens."""
    return sum(s.tokens if count_tokens else 1 for s in view.history if s.writer == "target")


def check_count(holder: object, field: str) -> None:
    """Raise unless a field is a whole number, 0 or more."""
    value = getattr(holder, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SettingsError(
            f"{field} of {type(holder).__name__} must be a whole number, 0 or more, not {value!r}"
        )
