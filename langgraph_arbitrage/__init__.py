"""Step-level speculative reasoning as a LangGraph component.

A small draft model generates each reasoning step, and a policy scores the step. If the policy
escalates the step, the large target model generates it again (Arbitrage, arXiv 2512.05033).

Importing this package does not import torch. Each public name is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_arbitrage import embedded as embedded
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.config.context import Context
    from langgraph_arbitrage.config.settings import ArbitrageSettings
    from langgraph_arbitrage.engine import ModelSpec
    from langgraph_arbitrage.events import StepEvent
    from langgraph_arbitrage.graphs import create_arbitrage_graph
    from langgraph_arbitrage.loop.approval import ApprovalRequest
    from langgraph_arbitrage.loop.models import Models
    from langgraph_arbitrage.policies import (
        RSD,
        AlwaysDraft,
        AlwaysTarget,
        Budget,
        Cascade,
        Decision,
        DraftConfidence,
        DraftVerification,
        EscalateRepeats,
        FirstSteps,
        Judge,
        LearnedRouter,
        Oracle,
        PastStep,
        Policy,
        Random,
        ScorerRequest,
        StepText,
        StepView,
        TargetLikelihood,
        TargetQuestion,
        WhileThinking,
    )
    from langgraph_arbitrage.state import ArbitrageState, StepRecord

__all__ = [
    "RSD",
    "AlwaysDraft",
    "AlwaysTarget",
    "ApprovalRequest",
    "ArbitrageSettings",
    "ArbitrageState",
    "Budget",
    "Cascade",
    "ChatArbitrage",
    "Context",
    "Decision",
    "DraftConfidence",
    "DraftVerification",
    "EscalateRepeats",
    "FirstSteps",
    "Judge",
    "LearnedRouter",
    "ModelSpec",
    "Models",
    "Oracle",
    "PastStep",
    "Policy",
    "Random",
    "ScorerRequest",
    "StepEvent",
    "StepRecord",
    "StepText",
    "StepView",
    "TargetLikelihood",
    "TargetQuestion",
    "WhileThinking",
    "create_arbitrage_graph",
    "embedded",
]

_MODULES = {
    "ApprovalRequest": "loop.approval",
    "ChatArbitrage": "chat_model",
    "ModelSpec": "engine",
    "StepEvent": "events",
    "create_arbitrage_graph": "graphs",
    "Models": "loop.models",
    **dict.fromkeys(
        [
            "AlwaysDraft",
            "AlwaysTarget",
            "ScorerRequest",
            "TargetLikelihood",
            "TargetQuestion",
            "WhileThinking",
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
            "RSD",
            "Random",
            "StepText",
            "StepView",
        ],
        "policies",
    ),
    "ArbitrageSettings": "config.settings",
    "Context": "config.context",
    **dict.fromkeys(["ArbitrageState", "StepRecord"], "state"),
}


def __getattr__(name: str) -> Any:
    if name == "embedded":
        return import_module(f"{__name__}.embedded")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
