"""The state machines."""

from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph

__all__ = ["create_arbitrage_graph"]
