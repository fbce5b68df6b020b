"""What all formats of tool calls share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["PROBE", "CallFormat", "ParsedCall", "Tool", "load_call"]

Tool = Mapping[str, Any]
"""A tool in OpenAI's form: `{"type": "function", "function": {name, description, parameters}}`."""

ARGUMENTS = ("arguments", "parameters")
"""Names that models give to a call's arguments."""

PROBE = ("probe_tool", {"probe_key": "probe value"})
"""A call that is rendered by a chat template to see how it writes one."""


@dataclass(frozen=True)
class ParsedCall:
    """A tool call as it was written."""

    name: str | None
    args: dict[str, Any] | None
    """None where they cannot be read."""
    raw: str
    """The text of the call, its mark included."""
    error: str | None = None


@dataclass(frozen=True)
class CallFormat(ABC):
    """How a family of models writes tool calls."""

    opens: ClassVar[tuple[str, ...]]
    """Texts that a call begins with, wherever they stand."""
    closes: ClassVar[str | None]
    """The text that ends a call; None where it runs to the end of the answer."""

    @classmethod
    @abstractmethod
    def of_sample(cls, sample: str) -> CallFormat | None:
        """The format, as a template writes it that rendered the `PROBE` call so; None if not."""

    def may_begin(self, text: str) -> bool | None:
        """Whether an answer with this beginning is a call without a mark; None if open."""
        return False

    @abstractmethod
    def calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """The calls between a mark and its close."""

    @abstractmethod
    def grammar(self, tool: Tool) -> list[Any]:
        """How a call of a tool is written: literal texts, and dicts for `%json` schemas."""


def load_call(text: str, raw: str, *, keys: Sequence[str] = ARGUMENTS) -> list[ParsedCall]:
    """A call, or several, from a JSON text `{"name": ..., "arguments": {...}}`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [ParsedCall(_name_in(text), None, raw, f"the call is no valid JSON: {error}")]
    return [_call(part, raw, keys) for part in (found if isinstance(found, list) else [found])]


def _call(found: Any, raw: str, keys: Sequence[str]) -> ParsedCall:
    if isinstance(found, dict) and isinstance(found.get("function"), dict):
        found = found["function"]
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str):
        return ParsedCall(None, None, raw, "the call names no tool")
    args: Any = next((found[key] for key in keys if key in found), {})
    if isinstance(args, str):  # JSON within JSON
        try:
            args = json.loads(args or "{}")
        except (ValueError, RecursionError):
            return ParsedCall(name, None, raw, "the call's arguments are no valid JSON")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        return ParsedCall(name, None, raw, "the call's arguments are no JSON object")
    return ParsedCall(name, args, raw)


def _name_in(text: str) -> str | None:
    """The tool's name in a text that is broken further on."""
    _, found, rest = text.partition('"name"')
    parts = rest.split('"', 2)
    return parts[1] if found and len(parts) == 3 and parts[0].strip() == ":" else None
