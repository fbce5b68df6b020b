"""`arbitrage serve`: an OpenAI-compatible HTTP server for the chat model (extra `serve`)."""

from langgraph_arbitrage.serve.settings import ServeSettings

__all__ = ["ServeSettings"]
