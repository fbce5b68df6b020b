"""Step scorers: one file a format; `base` holds the protocol."""

from langgraph_arbitrage.scorers.base import Judgement, StepScorer

__all__ = ["Judgement", "StepScorer"]
