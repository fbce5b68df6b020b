"""Formats with JSON arguments between literal texts: Qwen and Hermes, Llama 3, Mistral."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from langgraph_arbitrage.tools.formats.base import (
    PROBE,
    CallFormat,
    ParsedCall,
    Tool,
    parse_json_calls,
)

__all__ = ["Hermes", "LlamaJson", "Mistral"]


@dataclass(frozen=True)
class JsonCalls(CallFormat):
    """Base class of the formats `before` NAME `middle` ARGUMENTS `after`.

    The defaults are the texts that most templates of the format use. Templates may differ in
    whitespace.
    """

    mark: ClassVar[str]
    """Text that starts a call in every template of this format."""

    before: str
    """Text before the tool's name, from the mark on."""
    middle: str
    """Text between the name and the arguments."""
    after: str
    """Text after the arguments."""

    @classmethod
    def from_sample(cls, sample: str) -> Self | None:
        """Build the format from the texts around the name and the arguments of a `PROBE` call."""
        name, args = PROBE
        start = sample.rfind(cls.mark, 0, max(sample.rfind(name), 0))
        if start < 0:
            return None
        name_at = sample.find(name, start)
        rendered = next((t for t in _renderings(args) if sample.find(t, name_at) >= 0), None)
        if rendered is None:
            return None
        args_at = sample.find(rendered, name_at)
        before = sample[start:name_at]
        middle = sample[name_at + len(name) : args_at]
        return cls(before, middle, cls._after(before, sample[args_at + len(rendered) :]))

    @classmethod
    @abstractmethod
    def _after(cls, before: str, rest: str) -> str:
        """Return the text that ends a call, given `rest`, the sample after the arguments."""

    def grammar_parts(self, tool: Tool) -> list[Any]:
        """Return the schema of the arguments between the literal texts."""
        function = tool["function"]
        return [
            self.before + function["name"] + self.middle,
            function.get("parameters") or {"type": "object", "properties": {}},
            self.after,
        ]


def _renderings(args: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments as JSON in the styles that templates use."""
    return json.dumps(args), json.dumps(args, separators=(",", ":")), json.dumps(args, indent=4)


@dataclass(frozen=True)
class Hermes(JsonCalls):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Qwen 2.5 and 3, Hermes."""

    mark = "<tool_call>"
    opening_marks = ("<tool_call>",)
    closing_mark = "</tool_call>"

    before: str = '<tool_call>\n{"name": "'
    middle: str = '", "arguments": '
    after: str = "}\n</tool_call>"

    @classmethod
    def _after(cls, before: str, rest: str) -> str:
        text, mark, _ = rest.partition(cls.closing_mark)
        return text + mark

    def parse_calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Parse one call or a list of calls."""
        return parse_json_calls(body, mark + body)


@dataclass(frozen=True)
class LlamaJson(JsonCalls):
    """`{"name": ..., "parameters": {...}}` as the whole answer: Llama 3.1 and 3.2."""

    mark = '{"name": "'
    opening_marks = ("<|python_tag|>",)
    closing_mark = None

    before: str = '{"name": "'
    middle: str = '", "parameters": '
    after: str = "}"

    @classmethod
    def _after(cls, before: str, rest: str) -> str:
        return "}"

    def starts_unmarked_call(self, text: str) -> bool | None:
        """Return True for a JSON object whose first key is `name`, `function` or `type`."""
        text = text.lstrip()
        if re.match(r'\{\s*"(name|function|type)"', text):
            return True
        undecided = re.fullmatch(r'(\{(\s*("\w*)?)?)?', text)
        return None if undecided else False

    def parse_calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Parse consecutive calls, which may be separated by semicolons."""
        raw = (mark or self.opening_marks[0]) + body
        calls: list[ParsedCall] = []
        decoder, rest = json.JSONDecoder(), body.strip()
        while rest:
            try:
                _, end = decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                end = len(rest)
            calls += parse_json_calls(rest[:end], raw)
            rest = rest[end:].lstrip("; \n")
        return calls


@dataclass(frozen=True)
class Mistral(JsonCalls):
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]name[ARGS]{...}`."""

    mark = "[TOOL_CALLS]"
    opening_marks = ("[TOOL_CALLS]",)
    closing_mark = None

    before: str = '[TOOL_CALLS] [{"name": "'
    middle: str = '", "arguments": '
    after: str = "}]"

    @classmethod
    def _after(cls, before: str, rest: str) -> str:
        # Only the list format has a closing text.
        return "}]" if "[{" in before.replace(" ", "") else ""

    def parse_calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Parse a list of calls, or consecutive calls that each start with the mark."""
        head, next_mark, rest = body.partition(self.mark)
        if next_mark:
            return [
                *self.parse_calls(head, mark, tools),
                *self.parse_calls(rest, mark, tools),
            ]
        raw = mark + body
        if "[ARGS]" not in body:
            if body.lstrip().startswith(("[", "{")):
                return parse_json_calls(body, raw)
            name, brace, args = body.partition("{")  # name{...}
            return [_named_call(name, brace + args, raw)]
        name, _, args = body.partition("[ARGS]")
        return [_named_call(name.partition("[CALL_ID]")[0], args, raw)]


def _named_call(name: str, args: str, raw: str) -> ParsedCall:
    """Build a call from its name and the JSON text of its arguments."""
    try:
        parsed = json.loads(args)
    except (ValueError, RecursionError) as error:
        problem = f"the arguments of the call are not valid JSON: {error}"
        return ParsedCall(name.strip() or None, None, raw, problem)
    if not name.strip():
        return ParsedCall(None, None, raw, "the call has no tool name")
    if not isinstance(parsed, dict):
        problem = "the arguments of the call are not a JSON object"
        return ParsedCall(name.strip(), None, raw, problem)
    return ParsedCall(name.strip(), parsed, raw)
