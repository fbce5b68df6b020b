"""The policy that needs no router: how sure was the draft of what it wrote?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.base import Policy, StepView, check_range

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["DraftConfidence"]


@dataclass(frozen=True)
class DraftConfidence(Policy):
    """Escalates iff the mean token probability of the draft's step is below `threshold`.

    Costs nothing: the probabilities are by-products of writing. It knows how hard the draft
    found the step, not whether the target would do better, so it also escalates what neither
    model knows.
    """

    threshold_field: ClassVar[str | None] = "threshold"

    threshold: float = 0.99
    """In [0, 1]: 0 accepts everything, 1 escalates nearly everything.

    The default is measured on the embedded pair, over 160 held-out problems
    (`benchmarks/confidence_default.py`): 31 % of the steps escalated, which closes nine tenths
    of the way from the draft's accuracy to the target's. Other pairs are sure of themselves to
    other degrees: find the threshold of yours on questions of yours.
    """

    def __post_init__(self) -> None:
        check_range(self, "threshold")

    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float:
        """Mean over the step's tokens of exp(log-probability), under the draft itself."""
        assert view.draft is not None  # noqa: S101 - the route node runs after the draft
        logprobs = view.draft.logprobs
        if not logprobs:
            raise SettingsError(
                "DraftConfidence goes by the log-probabilities of the draft's tokens, and the "
                "server of the draft tells none: take another policy, or a draft that is here"
            )
        return sum(map(math.exp, logprobs)) / len(logprobs)

    def escalates(self, score: float | None) -> bool:
        """Score < threshold."""
        return score is not None and score < self.threshold
