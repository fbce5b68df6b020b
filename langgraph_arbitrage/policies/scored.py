"""Base class of the policies that use a step scorer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from langgraph_arbitrage.policies.base import Decision, Kind, Policy, ScorerRequest, StepView

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput
    from langgraph_arbitrage.scorers import Role, StepScore, StepScorer

__all__ = ["ScoredPolicy"]


@dataclass(frozen=True)
class ScoredPolicy(Policy):
    """Scores the draft step with a step scorer's checkpoint."""

    threshold_field: ClassVar[str | None] = "threshold"
    role: ClassVar[Role]
    """Required role of the scorer."""

    @property
    @abstractmethod
    def checkpoint_name(self) -> str:
        """Scorer checkpoint: a local folder or a Hub id, with an optional `kind:` prefix."""

    @cached_property
    def scorer(self) -> StepScorer:
        """The scorer of the checkpoint, loaded once.

        Raises:
            CheckpointError: The format is unknown, or the scorer has another role.
        """
        from langgraph_arbitrage.scorers import load_scorer

        return load_scorer(self.checkpoint_name, role=self.role)

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Return the checkpoint and kind of the scorer."""
        return [(self.scorer.base_model, self.scorer.kind)]

    def scorer_requests(self, view: StepView) -> Sequence[ScorerRequest]:
        """Return one request with the question, the committed steps and the draft step."""
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        return [self.scorer.request(view.question, view.history, view.draft.text)]

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Score the step, apply the rule and keep the scorer's state for later steps."""
        step_score = self._score(view, outputs[0])
        value = step_score.value
        return Decision(value, self.escalates(value), step_score.policy_state)

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Compute the scorer's value, in [0, 1]."""
        return self._score(view, outputs[0]).value

    def _score(self, view: StepView, output: ScoreOutput) -> StepScore:
        return self.scorer.read(view.history, output)

    def with_threshold(self, threshold: float | str) -> Self:
        """Return a copy with another threshold that shares the loaded scorer."""
        policy = super().with_threshold(threshold)
        if "scorer" in self.__dict__:
            policy.__dict__["scorer"] = self.scorer
        return policy
