"""Step scorers: one file a format; `base` holds the protocol."""

from langgraph_arbitrage.scorers.base import Judgement, StepScorer
from langgraph_arbitrage.scorers.load import load_scorer
from langgraph_arbitrage.scorers.surprise import (
    SurpriseHead,
    SurpriseScorer,
    surprise_features,
)
from langgraph_arbitrage.scorers.token_classifier import TokenScorer

__all__ = [
    "Judgement",
    "StepScorer",
    "SurpriseHead",
    "SurpriseScorer",
    "TokenScorer",
    "load_scorer",
    "surprise_features",
]
