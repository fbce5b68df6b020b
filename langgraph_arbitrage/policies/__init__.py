"""Policies: one file each; `base` holds the protocol that one's own policy follows."""

from langgraph_arbitrage.policies.always import AlwaysDraft, AlwaysTarget
from langgraph_arbitrage.policies.base import (
    Ask,
    AskTarget,
    Decision,
    PastStep,
    Policy,
    StepText,
    StepView,
    Writer,
)
from langgraph_arbitrage.policies.draft_confidence import DraftConfidence
from langgraph_arbitrage.policies.learned_router import LearnedRouter
from langgraph_arbitrage.policies.random_rate import Random

__all__ = [
    "AlwaysDraft",
    "AlwaysTarget",
    "Ask",
    "AskTarget",
    "Decision",
    "DraftConfidence",
    "LearnedRouter",
    "PastStep",
    "Policy",
    "Random",
    "StepText",
    "StepView",
    "Writer",
]
