"""Runs of the graph for the tests: settings that give many short steps by both writers."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_arbitrage import Random
from tiny import QUESTIONS, pair

STRICT = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None)
SETTINGS: dict[str, Any] = {
    **pair(endless=True, words=True),
    "separator": (".", "\n"),
    "min_step_tokens": 1,
    "router": Random(0.5, seed=2),
    "max_tokens": 60,
    "max_step_tokens": 6,
}
ASK = {"messages": [("user", QUESTIONS[0])]}


def thread(name: str = "1") -> Any:
    """The config of a thread."""
    return {"configurable": {"thread_id": name}, "recursion_limit": 1000}


def same_answer(state: Any, wanted: Any) -> bool:
    """Whether two finished states hold the same answer, step for step."""
    parts = [
        (
            s["messages"][-1].text,
            [(step["writer"], step["ids"], step["score"]) for step in s["steps"]],
            s["finish_reason"],
        )
        for s in (state, wanted)
    ]
    return parts[0] == parts[1]
