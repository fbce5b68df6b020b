"""Validate the tool calls of a step."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.schemas import validation_error

__all__ = ["call_error"]


def call_error(calls: Sequence[ParsedCall], tools: Sequence[Tool]) -> str | None:
    """Return the reason why the first invalid call is invalid; None if all calls are valid.

    A call is valid if it can be parsed, its tool exists and its arguments match the tool's schema.
    """
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    for call in calls:
        if call.args is None or call.name is None:
            return call.error or "the call cannot be parsed"
        if call.name not in schemas:
            allowed = ", ".join(schemas) or "none"
            return f"the call names the unknown tool {call.name!r}; the tools are: {allowed}"
        try:
            error = validation_error(call.args, schemas[call.name] or {}, path=call.name)
        except RecursionError:  # an infinitely recursive schema allows any value
            error = None
        if error:
            return error
    return None
