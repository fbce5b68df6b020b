"""Calls with one tag an argument: Qwen 3.5 and Qwen3-Coder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_arbitrage.tools.formats.base import PROBE, CallFormat, ParsedCall, Tool

__all__ = ["QwenXml"]

_CALL = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", re.DOTALL)
_ARGUMENT = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


@dataclass(frozen=True)
class QwenXml(CallFormat):
    """`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.

    A value is bare text where the schema says string, and JSON else.
    """

    opens = ("<tool_call>",)
    closes = "</tool_call>"

    @classmethod
    def of_sample(cls, sample: str) -> QwenXml | None:
        """Recognized by the tag of the function."""
        return cls() if f"<function={PROBE[0]}>" in sample else None

    def calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """One call; values are read by the tool's schema."""
        raw = mark + body
        found = _CALL.fullmatch(body)
        if found is None:
            begun = re.search(r"<function=([^>\n]+)>", body)
            return [
                ParsedCall(begun[1] if begun else None, None, raw, "the call's tags are not closed")
            ]
        name, inner = found[1].strip(), found[2]
        if _ARGUMENT.sub("", inner).strip():
            return [ParsedCall(name, None, raw, "there is text between the call's arguments")]
        tool: Tool = next((t["function"] for t in tools if t["function"]["name"] == name), {})
        properties = (tool.get("parameters") or {}).get("properties") or {}
        args = {
            key.strip(): _value(value, properties.get(key.strip(), {}))
            for key, value in _ARGUMENT.findall(inner)
        }
        return [ParsedCall(name, args, raw)]

    def grammar(self, tool: Tool) -> list[Any]:
        """Required arguments stand there; others may be left out."""
        function = tool["function"]
        parameters = function.get("parameters") or {}
        required = parameters.get("required", ())
        shared = {k: parameters[k] for k in ("$defs", "definitions") if k in parameters}
        parts: list[Any] = [f"<tool_call>\n<function={function['name']}>\n"]
        for key, schema in (parameters.get("properties") or {}).items():
            is_text = isinstance(schema, Mapping) and schema.get("type") == "string"
            value: Any = {**shared, **schema}
            if is_text:
                choices = schema.get("enum")
                value = tuple(choices) if choices else None
            argument = [f"<parameter={key}>\n", value, "\n</parameter>\n"]
            parts += argument if key in required else [argument]
        return [*parts, "</function>\n</tool_call>"]


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)
