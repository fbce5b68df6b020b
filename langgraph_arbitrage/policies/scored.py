"""What policies that go by a step scorer have in common."""

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
    """Goes by what a scorer says of the draft's step."""

    threshold_field: ClassVar[str | None] = "threshold"
    role: ClassVar[Role]
    """What the scorer must be."""

    @property
    @abstractmethod
    def checkpoint_name(self) -> str:
        """The scorer: a local folder or a hub id, with its kind before it where need be."""

    @cached_property
    def scorer(self) -> StepScorer:
        """The checkpoint's scorer.

        Raises:
            CheckpointError: Its format is not known, or it is a scorer of another role.
        """
        from langgraph_arbitrage.scorers import load_scorer

        return load_scorer(self.checkpoint_name, role=self.role)

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """The one."""
        return [(self.scorer.base_model, self.scorer.kind)]

    def scorer_requests(self, view: StepView) -> Sequence[ScorerRequest]:
        """One: the question, the steps so far, the draft's step."""
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        return [self.scorer.request(view.question, view.history, view.draft.text)]

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Judge, and note for later steps what the scorer notes."""
        judged = self._score(view, outputs[0])
        return Decision(judged.value, self.escalates(judged.value), judged.policy_state)

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """The scorer's value in [0, 1]."""
        return self._score(view, outputs[0]).value

    def _score(self, view: StepView, output: ScoreOutput) -> StepScore:
        return self.scorer.read(view.history, output)

    def with_threshold(self, threshold: float | str) -> Self:
        """This policy with another threshold; its checkpoint is not looked at again."""
        other = super().with_threshold(threshold)
        if "scorer" in self.__dict__:
            other.__dict__["scorer"] = self.scorer
        return other
