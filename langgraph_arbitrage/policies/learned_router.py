"""The method itself: a router trained to tell where the target would write a better step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.models.identifiers import public_name, same_model
from langgraph_arbitrage.policies.base import check_range
from langgraph_arbitrage.policies.calibration import Calibration
from langgraph_arbitrage.policies.scored import ScoredPolicy

if TYPE_CHECKING:
    from langgraph_arbitrage.scorers import Role

__all__ = ["UNCALIBRATED", "LearnedRouter"]

UNCALIBRATED = 0.5
"""Threshold of a router that was not calibrated: a better step is then more likely than not, if
its scores are to be believed."""


@dataclass(frozen=True)
class LearnedRouter(ScoredPolicy):
    """Escalates iff ŷ > threshold: the probability that the target would write a better step.

    Routers are made by `arbitrage train-router`, one for each pair of models.

    Example:
        `ChatArbitrage(draft=…, target=…, router=LearnedRouter("my-router", "rate:0.3"))`
    """

    role: ClassVar[Role] = "router"

    checkpoint: str
    """The router: a local folder or a hub id."""
    threshold: float | str | None = None
    """In [0, 1]: 0 escalates nearly everything, 1 nothing. Scores are not calibrated, so a number
    says little: `rate:0.3` (escalate about 30 % of the steps) and `loss:0.01` (lose at most 0.01
    against the target alone) find the number in the table that `arbitrage calibrate` made. By
    default it is `loss:0.01`, or where too few questions were asked to know that of any, the
    cheapest one that lost at most 0.01 there; 0.5 where there is no table."""
    any_pair: bool = False
    """Use it with models other than those that it was trained for, such as a quantized copy."""

    def __post_init__(self) -> None:
        if self.threshold is None:
            table = Calibration.find(self.scorer.model)
            object.__setattr__(self, "threshold", table.default if table else UNCALIBRATED)
        elif isinstance(self.threshold, str):
            object.__setattr__(self, "threshold", self._found(self.threshold))
        check_range(self, "threshold")

    def _found(self, wanted: str) -> float:
        return Calibration.load(self.scorer.model).threshold(wanted, self.checkpoint)

    @property
    def checkpoint_name(self) -> str:
        """The router."""
        return self.checkpoint

    def validate_pair(self, draft: str, target: str) -> None:
        """Refuse a pair that the router was not trained for.

        Raises:
            SettingsError: It is another one.
        """
        scorer = self.scorer
        if self.any_pair or scorer.draft is None or scorer.target is None:
            return
        if not (same_model(scorer.draft, draft) and same_model(scorer.target, target)):
            raise SettingsError(
                f"{self.checkpoint} was trained for the draft {scorer.draft} and the target "
                f"{scorer.target}, not for {public_name(draft)} and {public_name(target)}, which "
                "have other strengths. Train one for this pair (`arbitrage collect`, then "
                "`arbitrage train-router`), take another policy, or say any_pair=True where these "
                "are copies of the same models"
            )

    def escalates(self, score: float | None) -> bool:
        """Score > threshold: accept iff ŷ ≤ τ."""
        assert isinstance(self.threshold, float | int)  # noqa: S101 - found at construction
        return score is not None and score > self.threshold

    def with_threshold(self, threshold: float | str) -> Self:
        """This router with another threshold, a number or one to be found."""
        return super().with_threshold(
            self._found(threshold) if isinstance(threshold, str) else threshold
        )
