"""Reward-guided speculative decoding (RSD): a baseline that scores only the draft step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from langgraph_arbitrage.policies.base import check_range
from langgraph_arbitrage.policies.scored import ScoredPolicy

if TYPE_CHECKING:
    from langgraph_arbitrage.scorers import Role

__all__ = ["RSD"]


@dataclass(frozen=True)
class RSD(ScoredPolicy):
    """Escalates if the PRM score of the draft step is below the threshold.

    The rule is s_d < threshold. It also escalates steps that the target would not improve; a
    learned router avoids these escalations. Source: arXiv 2501.19324.
    """

    role: ClassVar[Role] = "prm"

    prm: str
    """PRM checkpoint: a local folder or a Hub id. If the kind cannot be detected from its files,
    prefix it, as in `math-shepherd:my-prm`."""
    threshold: float = 0.7
    """Minimum PRM score to accept, in [0, 1]. 0 accepts every step; 1 escalates almost every step.
    The default is from the RSD paper."""

    def __post_init__(self) -> None:
        check_range(self, "threshold")

    @property
    def checkpoint_name(self) -> str:
        """The PRM checkpoint."""
        return self.prm

    def escalates(self, score: float | None) -> bool:
        """Return True if s_d < threshold."""
        return score is not None and score < self.threshold
