"""The method itself: a router trained to tell where the target would write a better step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from langgraph_arbitrage.policies.base import Ask, Decision, Policy, StepView, check_unit
from langgraph_arbitrage.policies.calibration import Calibration

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Reading
    from langgraph_arbitrage.scorers import StepScorer

__all__ = ["LearnedRouter"]


@dataclass(frozen=True)
class LearnedRouter(Policy):
    """Escalates iff ŷ > threshold: the probability that the target would write a better step.

    Routers are made by `arbitrage train-router`, one for each pair of models.

    Example:
        `ChatArbitrage(draft=…, target=…, router=LearnedRouter("my-router", "rate:0.3"))`
    """

    threshold_field: ClassVar[str | None] = "threshold"

    checkpoint: str
    """The router: a local folder, a hub id, or `embedded:router`."""
    threshold: float | str = 0.5
    """In [0, 1]: 0 escalates nearly everything, 1 nothing. Scores are not calibrated, so a number
    says little: `rate:0.3` (escalate about 30 % of the steps) and `loss:0.01` (lose at most 0.01
    against the target alone) find the number in the table that `arbitrage calibrate` made."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str):
            found = Calibration.load(self.scorer.model).threshold(self.threshold, self.checkpoint)
            object.__setattr__(self, "threshold", found)
        check_unit(self, "threshold")

    @cached_property
    def scorer(self) -> StepScorer:
        """The checkpoint's scorer."""
        from langgraph_arbitrage.scorers import load_scorer

        return load_scorer(self.checkpoint)

    def asks(self, view: StepView) -> Sequence[Ask]:
        """One: the question, the steps so far, the draft's step."""
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        return [self.scorer.ask(view.question, view.history, view.draft.text)]

    def decide(self, view: StepView, answers: Sequence[Reading]) -> Decision:
        """Judge, and note for later steps what the scorer notes."""
        judgement = self.scorer.judge(view.history, answers[0])
        return Decision(judgement.value, self.escalates(judgement.value), judgement.memory)

    def score(self, view: StepView, answers: Sequence[Reading]) -> float:
        """ŷ in [0, 1]."""
        return self.scorer.judge(view.history, answers[0]).value

    def escalates(self, score: float | None) -> bool:
        """Score > threshold: accept iff ŷ ≤ τ."""
        return score is not None and score > float(self.threshold)

    def with_threshold(self, threshold: float | str) -> Self:
        """This router with another threshold; its checkpoint is not read again."""
        other = replace(self, threshold=threshold)
        if "scorer" in self.__dict__:
            other.__dict__["scorer"] = self.scorer
        return other
