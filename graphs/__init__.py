"""The state machines: the reasoning loop, and ready graphs around the chat model."""

from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph
from langgraph_arbitrage.graphs.batch import create_batch_graph
from langgraph_arbitrage.graphs.best_of_n import create_best_of_n_graph
from langgraph_arbitrage.graphs.cascade import create_cascade_graph
from langgraph_arbitrage.graphs.plan_solve_verify import create_plan_solve_verify_graph

__all__ = [
    "create_arbitrage_graph",
    "create_batch_graph",
    "create_best_of_n_graph",
    "create_cascade_graph",
    "create_plan_solve_verify_graph",
]
