"""The nodes of the reasoning graph, one per file. `binding` converts them for LangGraph."""

from langgraph_arbitrage.nodes.approve import approve
from langgraph_arbitrage.nodes.commit import commit
from langgraph_arbitrage.nodes.draft import draft
from langgraph_arbitrage.nodes.prepare import prepare
from langgraph_arbitrage.nodes.regenerate import regenerate
from langgraph_arbitrage.nodes.route import route

__all__ = ["approve", "commit", "draft", "prepare", "regenerate", "route"]
