"""One file a node: draft, route, regenerate, commit. `drive` runs their bodies, sync and async."""

from langgraph_arbitrage.nodes.commit import commit
from langgraph_arbitrage.nodes.draft import draft
from langgraph_arbitrage.nodes.drive import CancelScope, Edge, Node
from langgraph_arbitrage.nodes.regenerate import regenerate
from langgraph_arbitrage.nodes.route import route

__all__ = ["CancelScope", "Edge", "Node", "commit", "draft", "regenerate", "route"]
