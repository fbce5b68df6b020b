"""The state machine: draft → route → accept, or regenerate → commit.

START → draft → route ─┬─ accept ───────────────→ commit ─┬→ END
          ↑            └─ escalate → regenerate ──┘       │
          └───────────────────────────────────────────────┘

A policy that compares both steps (the oracle) has regenerate run before route; one that knows
beforehand that the target will write has the draft left out. Where a human approves of steps
(`approve=`), regenerate asks before the target writes, and also about a step that the policy would
have accepted. Once a budget is spent, the draft may finish alone (`at_limit=`).
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph

from langgraph_arbitrage.answer_state import step_view
from langgraph_arbitrage.context import Context
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.models.pair import Models
from langgraph_arbitrage.nodes import Edge, Node, commit, draft, regenerate, route
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.settings import ArbitrageSettings
from langgraph_arbitrage.state import ArbitrageState, MessagesInput

__all__ = ["ArbitrageGraph", "create_arbitrage_graph", "recursion_limit"]

ArbitrageGraph = StateGraph[ArbitrageState, Context, MessagesInput, ArbitrageState]

NODES_PER_STEP = 4


def create_arbitrage_graph(models: Models | None = None, /, **settings: Any) -> ArbitrageGraph:
    """The reasoning loop as an uncompiled graph: messages in, the answer's AIMessage appended.

    Compile it with a checkpointer of your own, or add the compiled graph as a node of another
    one. Its nodes are `draft`, `route`, `regenerate` and `commit`; its state is
    `ArbitrageState`; settings of a single run go in as `context=Context(...)`.

    Args:
        models: Models to share with others; made from the settings where not given.
        settings: Fields of `ArbitrageSettings`, the same as those of `ChatArbitrage`.

    Example:
        >>> from langgraph_arbitrage import create_arbitrage_graph
        >>> graph = create_arbitrage_graph(max_tokens=200).compile()
        >>> state = graph.invoke({"messages": [("user", "What is 2 + 3?")]})
        >>> state["messages"][-1].type
        'ai'

    Raises:
        SettingsError: A setting is outside its range.
    """
    models = models or Models(ArbitrageSettings(**settings))
    policy = models.settings.policy

    def next_writer(state: ArbitrageState) -> str:
        """Who writes the next step: the target at once where the run's policy skips the draft."""
        run = Run.of_node(models)
        skips = run.policy.skips_draft(step_view(state)) and not run.draft_alone(state)
        return "regenerate" if skips else "draft"

    def after_commit(state: ArbitrageState) -> str:
        return END if state.get("finish_reason") else next_writer(state)

    def after_draft(state: ArbitrageState) -> str:
        """Where both steps are compared, the target writes too, unless the draft goes on alone."""
        return "route" if Run.of_node(models).draft_alone(state) else "regenerate"

    def after_route(state: ArbitrageState) -> str:
        verdict = state.get("verdict")
        escalates = verdict is not None and (verdict["escalate"] or verdict["ask"])
        return "regenerate" if escalates and not state.get("target_step") else "commit"

    def after_regenerate(state: ArbitrageState) -> str:
        undecided = state.get("draft_step") and not state.get("verdict")
        return "route" if undecided else "commit"

    graph: ArbitrageGraph = StateGraph(
        ArbitrageState, context_schema=Context, input_schema=MessagesInput
    )
    graph.add_node("draft", Node(draft, models))
    graph.add_node("route", Node(route, models))
    graph.add_node("regenerate", Node(regenerate, models))
    graph.add_node("commit", Node(commit, models))
    graph.add_conditional_edges(START, Edge(next_writer), ["draft", "regenerate"])
    if policy.needs_target_step:
        graph.add_conditional_edges("draft", Edge(after_draft), ["regenerate", "route"])
    else:
        graph.add_edge("draft", "route")
    graph.add_conditional_edges("route", Edge(after_route), ["commit", "regenerate"])
    graph.add_conditional_edges("regenerate", Edge(after_regenerate), ["commit", "route"])
    graph.add_conditional_edges("commit", Edge(after_commit), ["draft", "regenerate", END])
    return graph


def recursion_limit(limits: Limits, context: Context | None = None) -> int:
    """LangGraph's `recursion_limit` for a run that may use all its steps."""
    return limits.overridden(context).max_steps * NODES_PER_STEP + 1
