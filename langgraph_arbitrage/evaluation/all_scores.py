"""Scores each draft step with several policies in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langgraph_arbitrage.policies import Decision, PastStep, Policy, PolicyRequest, StepView
from langgraph_arbitrage.policies.base import Kind

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["AllScores"]


@dataclass(frozen=True)
class AllScores(Policy):
    """Accepts every draft step and records its score under each of several policies.

    So all policies score the same steps, after the same prefixes.
    """

    policies: Mapping[str, Policy]
    """Policies by name."""
    rows: list[dict[str, float | None]] = field(default_factory=list, compare=False)
    """Scores of each step by policy, in the order in which the steps were scored."""

    @property
    def needs_target_step(self) -> bool:  # type: ignore[override]
        """True if any of the policies compares both steps."""
        return any(policy.needs_target_step for policy in self.policies.values())

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Return the scorers of all policies."""
        return [scorer for policy in self.policies.values() for scorer in policy.scorers()]

    def validate_pair(self, draft: str, target: str) -> None:
        """Raise if any of the policies does not support this pair of models."""
        for policy in self.policies.values():
            policy.validate_pair(draft, target)

    def scorer_requests(self, view: StepView) -> Sequence[PolicyRequest]:
        """Return the requests of all policies, in the order of the policies."""
        return [
            request
            for index, policy in enumerate(self.policies.values())
            for request in policy.scorer_requests(_own_view(view, index))
        ]

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Record the scores and accept the step."""
        left, state = list(outputs), []
        row: dict[str, float | None] = {}
        for index, (name, policy) in enumerate(self.policies.items()):
            own = _own_view(view, index)
            count = len(policy.scorer_requests(own))
            decision = policy.decide(own, left[:count])
            del left[:count]
            row[name] = decision.score
            state += [float(len(decision.policy_state)), *decision.policy_state]
        self.rows.append(row)
        return Decision(None, escalate=False, policy_state=tuple(state))

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> None:
        """Return None: `decide` records the scores."""

    def escalates(self, score: float | None) -> bool:
        """Return False."""
        return False


def _own_view(view: StepView, index: int) -> StepView:
    """Return the view of the policy at an index, with the states that it stored itself."""
    return replace(view, history=tuple(_own_step(step, index) for step in view.history))


def _own_step(step: PastStep, index: int) -> PastStep:
    """Select a policy's numbers from `policy_state`: for each policy their count, then they."""
    start = 0
    for _ in range(index):
        start += 1 + int(step.policy_state[start])
    count = int(step.policy_state[start])
    return replace(step, policy_state=step.policy_state[start + 1 : start + 1 + count])
