"""The graphs named in `langgraph.json`, for LangGraph's own server.

The server provides checkpointer, threads and queue. The environment variable `ARBITRAGE_SETTINGS`
holds a JSON object of fields of `ArbitrageSettings`, such as
`{"draft": "…", "target": "…", "approve": "escalations"}`; without it the embedded models run.
A run overrides settings in its `context`, such as `{"threshold": 0.5}`.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from langgraph_arbitrage.chat_model import ChatArbitrage
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph, recursion_limit
from langgraph_arbitrage.graphs.best_of_n import create_best_of_n_graph

__all__ = ["arbitrage", "best_of_n"]

VARIABLE = "ARBITRAGE_SETTINGS"
Graph = CompiledStateGraph[Any, Any, Any, Any]


@cache
def arbitrage() -> Graph:
    """Create the graph of the reasoning loop. All runs share its models.

    Raises:
        SettingsError: The environment variable holds invalid settings.
    """
    settings = _settings()
    limit = recursion_limit(RunSettings.of(ArbitrageSettings(**settings)))
    return create_arbitrage_graph(**settings).compile().with_config(recursion_limit=limit)


@cache
def best_of_n() -> Graph:
    """Create the best-of-n graph, which samples several answers and chooses one.

    Raises:
        SettingsError: The environment variable holds invalid settings.
    """
    settings = {"temperature": 0.7} | _settings()
    return create_best_of_n_graph(ChatArbitrage(**settings)).compile()


def _settings() -> dict[str, Any]:
    text = os.environ.get(VARIABLE, "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{VARIABLE} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{VARIABLE} must be a JSON object of settings, not {text}")
    return found
