"""The state machine: draft → route → accept, or regenerate → commit.

START → prepare → draft → route ─┬─ accept ───────────────────────→ commit ─┬→ END
                    ↑            └─ escalate → (approve) → regenerate ──┘   │
                    └───────────────────────────────────────────────────────┘

Edges that the diagram leaves out: a policy that skips the draft goes straight to regenerate (or to
approve), and a policy that compares both steps (the oracle) runs regenerate before route.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.embedded.notice import warn_once
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.nodes import approve, commit, draft, prepare, regenerate, route
from langgraph_arbitrage.nodes.binding import loop_node
from langgraph_arbitrage.state import ArbitrageState, MessagesInput

__all__ = ["ArbitrageGraph", "create_arbitrage_graph", "recursion_limit"]

ArbitrageGraph = StateGraph[ArbitrageState, Context, MessagesInput, ArbitrageState]

NODES_PER_STEP = 5


def create_arbitrage_graph(models: Models | None = None, /, **settings: Any) -> ArbitrageGraph:
    """The reasoning loop as an uncompiled graph: messages in, the answer's AIMessage appended.

    Compile it with a checkpointer of your own, or add the compiled graph as a node of another
    graph. Its state is `ArbitrageState`. Pass settings of a single run as `context=Context(...)`.

    Args:
        models: Models to share with others; created from the settings by default.
        settings: Fields of `ArbitrageSettings`, the same as those of `ChatArbitrage`.

    Example:
        >>> from langgraph_arbitrage import create_arbitrage_graph
        >>> graph = create_arbitrage_graph(max_tokens=200).compile()
        >>> question = "Ann has 34 apples. She buys 58. How many apples are there in the end?"
        >>> state = graph.invoke({"messages": [("user", question)]})
        >>> state["messages"][-1].type
        'ai'

    Raises:
        SettingsError: A setting is unknown or outside its range.
    """
    if models is None:
        models = Models(ArbitrageSettings(**settings))
        if not {"draft", "target"} & settings.keys():
            warn_once()
    compares = models.settings.policy.needs_target_step
    graph: ArbitrageGraph = StateGraph(
        ArbitrageState, context_schema=Context, input_schema=MessagesInput
    )
    for body in (prepare, draft, route, approve, regenerate, commit):
        graph.add_node(body.__name__, loop_node(body, models))

    writers = ["draft", "approve", "regenerate"]
    graph.add_edge(START, "prepare")
    graph.add_conditional_edges("prepare", next_node, [*writers, "route", "commit"])
    graph.add_conditional_edges("route", after_route, ["commit", "approve", "regenerate"])
    graph.add_conditional_edges("approve", after_approve, ["commit", "regenerate"])
    graph.add_conditional_edges("commit", after_commit, [*writers, "prepare", END])
    if compares:
        graph.add_conditional_edges("draft", next_node, ["regenerate", "route"])
        graph.add_conditional_edges("regenerate", after_regenerate, ["route", "commit"])
    else:
        graph.add_edge("draft", "route")
        graph.add_edge("regenerate", "commit")
    return graph


def next_node(state: ArbitrageState) -> str:
    """The successor that the node has chosen."""
    return state["next_node"] or "prepare"


def after_route(state: ArbitrageState) -> str:
    """Accept iff the policy does not escalate; a human may have the last word."""
    decision = state["decision"]
    if decision and decision["needs_approval"]:
        return "approve"
    escalates = decision is not None and decision["escalate"]
    return "regenerate" if escalates and not state["target_step"] else "commit"


def after_approve(state: ArbitrageState) -> str:
    """The target writes unless the human accepted the draft's step or replaced it."""
    decision = state["decision"]
    escalates = decision is not None and decision["escalate"]
    return "regenerate" if escalates and not state["target_step"] else "commit"


def after_regenerate(state: ArbitrageState) -> str:
    """A policy that compares both steps decides now."""
    undecided = state["draft_step"] and not state["decision"]
    return "route" if undecided else "commit"


def after_commit(state: ArbitrageState) -> str:
    """End a complete answer, else write the next step."""
    return END if state.get("finish_reason") else next_node(state)


def recursion_limit(settings: RunSettings) -> int:
    """LangGraph's `recursion_limit` for a run that may use all its steps."""
    return settings.max_steps * NODES_PER_STEP + 2
