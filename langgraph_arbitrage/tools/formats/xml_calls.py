"""Calls with one XML tag per argument: Qwen 3.5 and Qwen3-Coder."""

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

    A value is plain text if its schema has the type `string`, otherwise JSON.
    """

    opening_marks = ("<tool_call>",)
    closing_mark = "</tool_call>"

    @classmethod
    def from_sample(cls, sample: str) -> QwenXml | None:
        """Return the format if the sample has a function tag."""
        return cls() if f"<function={PROBE[0]}>" in sample else None

    def parse_calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Parse one call. The tool's schema determines the type of each value."""
        raw = mark + body
        match = _CALL.fullmatch(body)
        if match is None:
            opened = re.search(r"<function=([^>\n]+)>", body)
            problem = "the function tag of the call is missing or not closed"
            return [ParsedCall(opened[1] if opened else None, None, raw, problem)]
        name, inner = match[1].strip(), match[2]
        if _ARGUMENT.sub("", inner).strip():
            return [ParsedCall(name, None, raw, "the call has text outside of its parameter tags")]
        tool: Tool = next((t["function"] for t in tools if t["function"]["name"] == name), {})
        properties = (tool.get("parameters") or {}).get("properties") or {}
        args = {
            key.strip(): _parse_value(value, properties.get(key.strip(), {}))
            for key, value in _ARGUMENT.findall(inner)
        }
        return [ParsedCall(name, args, raw)]

    def grammar_parts(self, tool: Tool) -> list[Any]:
        """Return one tag per argument, in the schema's order; optional ones may be omitted."""
        function = tool["function"]
        parameters = function.get("parameters") or {}
        required = parameters.get("required", ())
        definitions = {k: parameters[k] for k in ("$defs", "definitions") if k in parameters}
        parts: list[Any] = [f"<tool_call>\n<function={function['name']}>\n"]
        for key, schema in (parameters.get("properties") or {}).items():
            is_text = isinstance(schema, Mapping) and schema.get("type") == "string"
            value: Any = {**definitions, **schema}
            if is_text:
                choices = schema.get("enum")
                value = tuple(choices) if choices else None
            argument = [f"<parameter={key}>\n", value, "\n</parameter>\n"]
            parts += argument if key in required else [argument]
        return [*parts, "</function>\n</tool_call>"]


def _parse_value(text: str, schema: Any) -> Any:
    """Parse a value by its schema. Text that is not valid JSON is returned unchanged."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)
