"""The upper bound: both models write every step, and a PRM compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.policies.base import Decision, ScorerRequest, StepView, check_range
from langgraph_arbitrage.policies.scored import ScoredPolicy

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput
    from langgraph_arbitrage.scorers import Role, StepScore

__all__ = ["Oracle"]


@dataclass(frozen=True)
class Oracle(ScoredPolicy):
    """Escalates iff Δ = s_t − s_d > threshold: a PRM finds the target's step better by that much.

    It needs the target's step to decide, so it saves nothing: what a router could reach at best.
    """

    needs_target_step: ClassVar[bool] = True
    role: ClassVar[Role] = "prm"

    prm: str
    """The PRM: a local folder or a hub id, as for RSD."""
    threshold: float = 0.0
    """In [−1, 1]: 0 takes the better step, a higher one only a step that is so much better."""

    def __post_init__(self) -> None:
        check_range(self, "threshold", -1)

    @property
    def checkpoint_name(self) -> str:
        """The PRM."""
        return self.prm

    def scorer_requests(self, view: StepView) -> Sequence[ScorerRequest]:
        """The draft's step and the target's, at a time; one where they are the same."""
        assert view.draft is not None  # noqa: S101 - both have written
        assert view.target is not None  # noqa: S101
        texts = dict.fromkeys((view.draft.text, view.target.text))
        return [self.scorer.request(view.question, view.history, text) for text in texts]

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Compare, and note what the scorer notes of the step that is taken."""
        ours, theirs = self._both(view, outputs)
        advantage = theirs.value - ours.value
        escalate = self.escalates(advantage)
        return Decision(advantage, escalate, theirs.policy_state if escalate else ours.policy_state)

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Δ in [−1, 1]."""
        ours, theirs = self._both(view, outputs)
        return theirs.value - ours.value

    def _both(self, view: StepView, outputs: Sequence[ScoreOutput]) -> tuple[StepScore, StepScore]:
        return self._score(view, outputs[0]), self._score(view, outputs[-1])

    def escalates(self, score: float | None) -> bool:
        """Δ > threshold."""
        return score is not None and score > self.threshold
