"""The protocol of tool call formats, and the parser of JSON calls."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["PROBE", "CallFormat", "ParsedCall", "Tool", "parse_json_calls"]

Tool = Mapping[str, Any]
"""A tool in OpenAI's format: `{"type": "function", "function": {...}}`. The function has a name, a
description and parameters (a JSON schema)."""

ARGUMENTS = ("arguments", "parameters")
"""Keys of a call's arguments."""

PROBE = ("probe_tool", {"probe_key": "probe value"})
"""Name and arguments of the call that is rendered to detect a chat template's format."""


@dataclass(frozen=True)
class ParsedCall:
    """A tool call in a model's output."""

    name: str | None
    """Name of the tool; None if it cannot be parsed."""
    args: dict[str, Any] | None
    """Arguments; None if they cannot be parsed."""
    raw: str
    """Text of the call, including its mark."""
    error: str | None = None
    """Reason why the call cannot be parsed; None if it can."""


@dataclass(frozen=True)
class CallFormat(ABC):
    """Format in which a family of models writes tool calls."""

    opening_marks: ClassVar[tuple[str, ...]]
    """Texts that start a call at any position of the answer."""
    closing_mark: ClassVar[str | None]
    """Text that ends a call; None if a call extends to the end of the answer."""

    @classmethod
    @abstractmethod
    def from_sample(cls, sample: str) -> CallFormat | None:
        """Build the format from a rendered `PROBE` call; None if the sample has another format."""

    def starts_unmarked_call(self, text: str) -> bool | None:
        """Return True if an answer with this start is a call without a mark.

        None means that more text is needed to decide.
        """
        return False

    @abstractmethod
    def parse_calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Parse the calls between an opening mark and its closing mark.

        Malformed calls are returned with `error` set; parsing never raises.

        Args:
            body: Text between the marks.
            mark: The opening mark. Empty for a call without a mark.
            tools: Tools that the model may call.
        """

    @abstractmethod
    def grammar_parts(self, tool: Tool) -> list[Any]:
        """Return the parts of a call of this tool, in order.

        A part is a literal text, a JSON schema (a dict), a tuple of alternative texts, a list of
        parts that may be omitted, or None for free text up to the next literal.
        """


def parse_json_calls(
    text: str, raw: str, *, argument_keys: Sequence[str] = ARGUMENTS
) -> list[ParsedCall]:
    """Parse `{"name": ..., "arguments": {...}}`, or a list of such objects.

    Args:
        text: The JSON text.
        raw: Text of the whole call, for `ParsedCall.raw`.
        argument_keys: Keys of the arguments. The first one present is used.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [ParsedCall(_find_name(text), None, raw, f"the call is not valid JSON: {error}")]
    calls = parsed if isinstance(parsed, list) else [parsed]
    return [_parse_call(call, raw, argument_keys) for call in calls]


def _parse_call(call: Any, raw: str, argument_keys: Sequence[str]) -> ParsedCall:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str):
        return ParsedCall(None, None, raw, "the call has no tool name")
    args: Any = next((call[key] for key in argument_keys if key in call), {})
    if isinstance(args, str):  # some models write the arguments as a JSON string
        try:
            args = json.loads(args or "{}")
        except (ValueError, RecursionError):
            return ParsedCall(name, None, raw, "the arguments of the call are not valid JSON")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        return ParsedCall(name, None, raw, "the arguments of the call are not a JSON object")
    return ParsedCall(name, args, raw)


def _find_name(text: str) -> str | None:
    """Return the tool's name from malformed JSON; None if it cannot be found."""
    _, key, rest = text.partition('"name"')
    parts = rest.split('"', 2)
    return parts[1] if key and len(parts) == 3 and parts[0].strip() == ":" else None
