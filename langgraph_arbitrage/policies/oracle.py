"""The oracle policy: both models generate every step, and a PRM compares the two."""

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
    """Escalates if the PRM advantage of the target's step exceeds the threshold.

    The advantage is Δ = s_t − s_d, the PRM score of the target's step minus that of the draft's.
    The target generates every step, so the policy saves no target compute. It is an upper bound
    for a learned router.
    """

    needs_target_step: ClassVar[bool] = True
    role: ClassVar[Role] = "prm"

    prm: str
    """PRM checkpoint: a local folder or a Hub id, as for `RSD`."""
    threshold: float = 0.0
    """Threshold on Δ, in [−1, 1]. 0 selects the step with the higher score; a higher threshold
    escalates fewer steps."""

    def __post_init__(self) -> None:
        check_range(self, "threshold", -1)

    @property
    def checkpoint_name(self) -> str:
        """The PRM checkpoint."""
        return self.prm

    def scorer_requests(self, view: StepView) -> Sequence[ScorerRequest]:
        """Return one request per step, or a single one if both steps have the same text."""
        assert view.draft is not None  # noqa: S101 - both steps exist by now
        assert view.target is not None  # noqa: S101
        texts = dict.fromkeys((view.draft.text, view.target.text))
        return [self.scorer.request(view.question, view.history, text) for text in texts]

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Compare the two steps and keep the scorer's state for the selected one."""
        draft, target = self._step_scores(view, outputs)
        advantage = target.value - draft.value
        escalate = self.escalates(advantage)
        return Decision(advantage, escalate, (target if escalate else draft).policy_state)

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Compute Δ = s_t − s_d, in [−1, 1]."""
        draft, target = self._step_scores(view, outputs)
        return target.value - draft.value

    def _step_scores(
        self, view: StepView, outputs: Sequence[ScoreOutput]
    ) -> tuple[StepScore, StepScore]:
        """Return the scores of the draft's and the target's step."""
        # With equal texts, the single output is both the first and the last.
        return self._score(view, outputs[0]), self._score(view, outputs[-1])

    def escalates(self, score: float | None) -> bool:
        """Return True if Δ > threshold."""
        return score is not None and score > self.threshold
