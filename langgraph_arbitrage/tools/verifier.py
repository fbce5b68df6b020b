"""Checks that the tool calls of a step are valid."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.schemas import misfit

__all__ = ["call_error"]


def call_error(calls: Sequence[ParsedCall], tools: Sequence[Tool]) -> str | None:
    """Why the first invalid call is invalid; None if all are valid.

    A call is valid iff it parses, names an offered tool, and its arguments fit the schema.
    """
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    for call in calls:
        if call.args is None or call.name is None:
            return call.error or "the call cannot be parsed"
        if call.name not in offered:
            return f"the call names {call.name!r}, which is not an offered tool"
        try:
            wrong = misfit(call.args, offered[call.name] or {}, at=call.name)
        except RecursionError:  # an endlessly recursive schema restricts nothing
            wrong = None
        if wrong:
            return wrong
    return None
