"""The learned router: escalate if the target is likely to write a better step."""

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
"""Default threshold of a router without a calibration table: escalate if the predicted probability
of a better step exceeds one half."""


@dataclass(frozen=True)
class LearnedRouter(ScoredPolicy):
    """Escalates if a trained router predicts that the target would write a better step.

    The rule is ŷ > threshold, where ŷ is the predicted probability of a better step. Train a
    router for each pair of models with `arbitrage train-router`.

    Example:
        `ChatArbitrage(draft=…, target=…, router=LearnedRouter("my-router", "rate:0.3"))`
    """

    role: ClassVar[Role] = "router"

    checkpoint: str
    """Router checkpoint: a local folder or a Hub id."""
    threshold: float | str | None = None
    """Threshold on ŷ, in [0, 1]. 0 escalates almost every step; 1 escalates none.

    Router scores are not calibrated probabilities. `rate:0.3` (escalate about 30 % of the steps)
    and `loss:0.01` (lose at most 0.01 relative to the target alone) select a threshold from the
    table written by `arbitrage calibrate`. Default: `loss:0.01`. If no threshold satisfies that
    bound, the default is the cheapest threshold whose measured loss is at most 0.01. Without a
    table, the default is 0.5.
    """
    any_pair: bool = False
    """Allow models other than the pair the router was trained for, such as quantized copies."""

    def __post_init__(self) -> None:
        if self.threshold is None:
            table = Calibration.find(self.scorer.model)
            object.__setattr__(self, "threshold", table.default if table else UNCALIBRATED)
        elif isinstance(self.threshold, str):
            object.__setattr__(self, "threshold", self._calibrated_threshold(self.threshold))
        check_range(self, "threshold")

    def _calibrated_threshold(self, rule: str) -> float:
        return Calibration.load(self.scorer.model).threshold(rule, self.checkpoint)

    @property
    def checkpoint_name(self) -> str:
        """The router checkpoint."""
        return self.checkpoint

    def validate_pair(self, draft: str, target: str) -> None:
        """Check that the router was trained for this pair of models.

        Raises:
            SettingsError: The router was trained for another pair and `any_pair` is False.
        """
        scorer = self.scorer
        if self.any_pair or scorer.draft is None or scorer.target is None:
            return
        if not (same_model(scorer.draft, draft) and same_model(scorer.target, target)):
            raise SettingsError(
                f"{self.checkpoint} was trained for the draft {scorer.draft} and the target "
                f"{scorer.target}, not for {public_name(draft)} and {public_name(target)}. Train "
                "a router for this pair (`arbitrage collect`, then `arbitrage train-router`), use "
                "another policy, or set any_pair=True if these are copies of the same models"
            )

    def escalates(self, score: float | None) -> bool:
        """Return True if ŷ > threshold."""
        assert isinstance(self.threshold, float | int)  # noqa: S101 - set in __post_init__
        return score is not None and score > self.threshold

    def with_threshold(self, threshold: float | str) -> Self:
        """Return a copy with another threshold: a number, `rate:R` or `loss:E`."""
        return super().with_threshold(
            self._calibrated_threshold(threshold) if isinstance(threshold, str) else threshold
        )
