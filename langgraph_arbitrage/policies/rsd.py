"""Reward-guided speculative decoding: the baseline that looks at the draft's step alone."""

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
    """Escalates iff s_d < threshold: a PRM finds the draft's step bad.

    Also where the target would do no better, which is what a learned router spares. Source:
    arXiv 2501.19324.
    """

    role: ClassVar[Role] = "prm"

    prm: str
    """The PRM: a local folder or a hub id. A kind that its files do not tell stands before it, as
    in `math-shepherd:my-prm`."""
    threshold: float = 0.7
    """In [0, 1]: 0 accepts everything, 1 escalates nearly everything. The default is the
    source's."""

    def __post_init__(self) -> None:
        check_range(self, "threshold")

    @property
    def checkpoint_name(self) -> str:
        """The PRM."""
        return self.prm

    def escalates(self, score: float | None) -> bool:
        """Score < threshold."""
        return score is not None and score < self.threshold
