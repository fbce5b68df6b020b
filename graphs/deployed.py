"""The graphs that `langgraph.json` names, for LangGraph's own server.

The server brings checkpointer, threads and queue. Models and policy come from the environment:
`ARBITRAGE_SETTINGS` is a JSON object of fields of `ArbitrageSettings`, such as
`{"draft": "…", "target": "…", "approve": "escalations"}`; without it the embedded models run.
A run sets its own in `context`, such as `{"threshold": 0.5}`.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from langgraph_arbitrage.chat_model import ChatArbitrage
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph, recursion_limit
from langgraph_arbitrage.graphs.best_of_n import create_best_of_n_graph
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.settings import ArbitrageSettings

__all__ = ["arbitrage", "best_of_n"]

VARIABLE = "ARBITRAGE_SETTINGS"
Graph = CompiledStateGraph[Any, Any, Any, Any]


@cache
def arbitrage() -> Graph:
    """The reasoning loop; one for all runs, which share its models.

    Raises:
        SettingsError: The environment's settings are none.
    """
    settings = _settings()
    limit = recursion_limit(Limits.of(ArbitrageSettings(**settings)))
    return create_arbitrage_graph(**settings).compile().with_config(recursion_limit=limit)


@cache
def best_of_n() -> Graph:
    """Many answers, of which a vote chooses one.

    Raises:
        SettingsError: The environment's settings are none.
    """
    settings = {"temperature": 0.7} | _settings()
    return create_best_of_n_graph(ChatArbitrage(**settings)).compile()


def _settings() -> dict[str, Any]:
    text = os.environ.get(VARIABLE, "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{VARIABLE} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{VARIABLE} must be a JSON object of settings, not {text}")
    return found
