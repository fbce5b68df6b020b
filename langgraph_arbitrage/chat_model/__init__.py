"""The chat model: `ChatArbitrage` runs the reasoning graph behind LangChain's interface."""

from langgraph_arbitrage.chat_model.model import ChatArbitrage

__all__ = ["ChatArbitrage"]
