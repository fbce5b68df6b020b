"""Step scorers (routers and PRMs), one file per checkpoint format. `base` defines the protocol."""

from langgraph_arbitrage.scorers.base import Role, StepScore, StepScorer
from langgraph_arbitrage.scorers.load import KINDS, load_scorer
from langgraph_arbitrage.scorers.qwen_prm import QwenScorer
from langgraph_arbitrage.scorers.surprise import (
    SurpriseHead,
    SurpriseScorer,
    surprise_features,
)
from langgraph_arbitrage.scorers.token_choice import MathShepherdScorer, RLHFlowScorer
from langgraph_arbitrage.scorers.token_classifier import SequenceScorer, TokenScorer
from langgraph_arbitrage.scorers.value_head import ValueHeadScorer

__all__ = [
    "KINDS",
    "MathShepherdScorer",
    "QwenScorer",
    "RLHFlowScorer",
    "Role",
    "SequenceScorer",
    "StepScore",
    "StepScorer",
    "SurpriseHead",
    "SurpriseScorer",
    "TokenScorer",
    "ValueHeadScorer",
    "load_scorer",
    "surprise_features",
]
