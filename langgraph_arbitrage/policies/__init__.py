"""Escalation policies, one per file. Subclass `base.Policy` to write your own."""

from langgraph_arbitrage.policies.always import AlwaysDraft, AlwaysTarget
from langgraph_arbitrage.policies.base import (
    Decision,
    PastStep,
    Policy,
    ScorerRequest,
    StepText,
    StepView,
    TargetQuestion,
    Writer,
)
from langgraph_arbitrage.policies.draft_confidence import DraftConfidence
from langgraph_arbitrage.policies.judge import Judge
from langgraph_arbitrage.policies.learned_router import LearnedRouter
from langgraph_arbitrage.policies.options import Budget, EscalateRepeats, FirstSteps
from langgraph_arbitrage.policies.oracle import Oracle
from langgraph_arbitrage.policies.random_rate import Random
from langgraph_arbitrage.policies.rsd import RSD

__all__ = [
    "RSD",
    "AlwaysDraft",
    "AlwaysTarget",
    "Budget",
    "Decision",
    "DraftConfidence",
    "EscalateRepeats",
    "FirstSteps",
    "Judge",
    "LearnedRouter",
    "Oracle",
    "PastStep",
    "Policy",
    "Random",
    "ScorerRequest",
    "StepText",
    "StepView",
    "TargetQuestion",
    "Writer",
]
