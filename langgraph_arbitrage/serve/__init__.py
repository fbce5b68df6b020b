"""`arbitrage serve`: the chat model behind an OpenAI-compatible HTTP endpoint (extra `serve`)."""

from langgraph_arbitrage.serve.settings import ServeSettings

__all__ = ["ServeSettings"]
