"""Escalation policies, one per file. Subclass `base.Policy` to write your own."""

from langgraph_arbitrage.policies.always import AlwaysDraft, AlwaysTarget
from langgraph_arbitrage.policies.base import (
    Decision,
    DraftVerification,
    PastStep,
    Policy,
    PolicyRequest,
    ScorerRequest,
    StepText,
    StepView,
    TargetQuestion,
    Writer,
)
from langgraph_arbitrage.policies.draft_confidence import DraftConfidence
from langgraph_arbitrage.policies.judge import Judge
from langgraph_arbitrage.policies.learned_router import LearnedRouter
from langgraph_arbitrage.policies.options import (
    Budget,
    Cascade,
    EscalateRepeats,
    FirstSteps,
    WhileThinking,
)
from langgraph_arbitrage.policies.oracle import Oracle
from langgraph_arbitrage.policies.random_rate import Random
from langgraph_arbitrage.policies.rsd import RSD
from langgraph_arbitrage.policies.target_likelihood import TargetLikelihood

__all__ = [
    "RSD",
    "AlwaysDraft",
    "AlwaysTarget",
    "Budget",
    "Cascade",
    "Decision",
    "DraftConfidence",
    "DraftVerification",
    "EscalateRepeats",
    "FirstSteps",
    "Judge",
    "LearnedRouter",
    "Oracle",
    "PastStep",
    "Policy",
    "PolicyRequest",
    "Random",
    "ScorerRequest",
    "StepText",
    "StepView",
    "TargetLikelihood",
    "TargetQuestion",
    "WhileThinking",
    "Writer",
]
