"""The exact verifier: whether the tool calls of a step are calls that can be made."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.schemas import misfit

__all__ = ["call_fault"]


def call_fault(calls: Sequence[ParsedCall], tools: Sequence[Tool]) -> str | None:
    """What is wrong with the first call that cannot be made; None where all can.

    A call can be made iff it parses, names an offered tool, and its arguments fit the schema.
    """
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    for call in calls:
        if call.args is None or call.name is None:
            return call.error or "the call cannot be read"
        if call.name not in offered:
            return f"the call names {call.name!r}, which is no offered tool"
        try:
            wrong = misfit(call.args, offered[call.name] or {}, at=call.name)
        except RecursionError:  # a schema that refers to itself without end says nothing
            wrong = None
        if wrong:
            return wrong
    return None
