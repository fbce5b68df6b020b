"""Policies by the names that the command line and results give them."""

from __future__ import annotations

from langgraph_arbitrage.policies.always import AlwaysDraft, AlwaysTarget
from langgraph_arbitrage.policies.base import Policy
from langgraph_arbitrage.policies.draft_confidence import DraftConfidence
from langgraph_arbitrage.policies.judge import Judge
from langgraph_arbitrage.policies.learned_router import LearnedRouter
from langgraph_arbitrage.policies.oracle import Oracle
from langgraph_arbitrage.policies.random_rate import Random
from langgraph_arbitrage.policies.rsd import RSD

__all__ = ["POLICIES", "SCORED"]

POLICIES: dict[str, type[Policy]] = {
    "router": LearnedRouter,
    "rsd": RSD,
    "oracle": Oracle,
    "judge": Judge,
    "confidence": DraftConfidence,
    "random": Random,
    "draft": AlwaysDraft,
    "target": AlwaysTarget,
}
"""Every policy that ships."""

SCORED = {"router": "router", "rsd": "prm", "oracle": "prm"}
"""Policies that go by a checkpoint, and of what kind it is."""
