"""Policy names used on the command line and in result files."""

from __future__ import annotations

from langgraph_arbitrage.policies.always import AlwaysDraft, AlwaysTarget
from langgraph_arbitrage.policies.base import Policy
from langgraph_arbitrage.policies.draft_confidence import DraftConfidence
from langgraph_arbitrage.policies.judge import Judge
from langgraph_arbitrage.policies.learned_router import LearnedRouter
from langgraph_arbitrage.policies.oracle import Oracle
from langgraph_arbitrage.policies.random_rate import Random
from langgraph_arbitrage.policies.rsd import RSD
from langgraph_arbitrage.policies.target_likelihood import TargetLikelihood

__all__ = ["POLICIES", "SCORER_ROLES"]

POLICIES: dict[str, type[Policy]] = {
    "router": LearnedRouter,
    "rsd": RSD,
    "oracle": Oracle,
    "judge": Judge,
    "likelihood": TargetLikelihood,
    "confidence": DraftConfidence,
    "random": Random,
    "draft": AlwaysDraft,
    "target": AlwaysTarget,
}
"""Maps each built-in policy's name to its class."""

SCORER_ROLES = {"router": "router", "rsd": "prm", "oracle": "prm"}
"""Maps each policy that requires a scorer checkpoint to the scorer's role."""
