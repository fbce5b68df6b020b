"""Calls whose arguments are JSON between literal texts: Qwen and Hermes, Llama 3, Mistral."""

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
    load_call,
)

__all__ = ["Hermes", "LlamaJson", "Mistral"]


@dataclass(frozen=True)
class JsonCalls(CallFormat):
    """A call is `before` NAME `middle` ARGUMENTS `after`.

    Each kind has its usual texts as defaults; a template may write them with other spaces.
    """

    mark: ClassVar[str]
    """What a call begins with in every template of the kind."""

    before: str
    middle: str
    after: str

    @classmethod
    def of_sample(cls, sample: str) -> Self | None:
        """Take the literal texts from what the template wrote around name and arguments."""
        name, args = PROBE
        start = sample.rfind(cls.mark, 0, max(sample.rfind(name), 0))
        if start < 0:
            return None
        name_at = sample.find(name, start)
        written = next((t for t in _styles(args) if sample.find(t, name_at) >= 0), None)
        if written is None:
            return None
        args_at = sample.find(written, name_at)
        before = sample[start:name_at]
        middle = sample[name_at + len(name) : args_at]
        return cls(before, middle, cls._after(before, sample[args_at + len(written) :]))

    @classmethod
    @abstractmethod
    def _after(cls, before: str, rest: str) -> str:
        """What ends a call with this beginning, where `rest` stands behind the arguments."""

    def grammar(self, tool: Tool) -> list[Any]:
        """The literal texts around the schema of the arguments."""
        function = tool["function"]
        return [
            self.before + function["name"] + self.middle,
            function.get("parameters") or {"type": "object", "properties": {}},
            self.after,
        ]


def _styles(args: dict[str, Any]) -> tuple[str, ...]:
    return json.dumps(args), json.dumps(args, separators=(",", ":")), json.dumps(args, indent=4)


@dataclass(frozen=True)
class Hermes(JsonCalls):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Qwen 2.5 and 3, Hermes."""

    mark = "<tool_call>"
    opens = ("<tool_call>",)
    closes = "</tool_call>"

    before: str = '<tool_call>\n{"name": "'
    middle: str = '", "arguments": '
    after: str = "}\n</tool_call>"

    @classmethod
    def _after(cls, before: str, rest: str) -> str:
        text, found, _ = rest.partition(cls.closes)
        return text + found

    def calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """One call, or a list of them."""
        return load_call(body, mark + body)


@dataclass(frozen=True)
class LlamaJson(JsonCalls):
    """`{"name": ..., "parameters": {...}}` as the whole answer: Llama 3.1 and 3.2."""

    mark = '{"name": "'
    opens = ("<|python_tag|>",)
    closes = None

    before: str = '{"name": "'
    middle: str = '", "parameters": '
    after: str = "}"

    @classmethod
    def _after(cls, before: str, rest: str) -> str:
        return "}"

    def may_begin(self, text: str) -> bool | None:
        """A JSON object whose first key is one of a call's."""
        text = text.lstrip()
        if re.match(r'\{\s*"(name|function|type)"', text):
            return True
        undecided = re.fullmatch(r'(\{(\s*("\w*)?)?)?', text)
        return None if undecided else False

    def calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Calls one after the other, with semicolons between them."""
        raw = (mark or self.opens[0]) + body
        found: list[ParsedCall] = []
        decoder, rest = json.JSONDecoder(), body.strip()
        while rest:
            try:
                _, end = decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                end = len(rest)
            found += load_call(rest[:end], raw)
            rest = rest[end:].lstrip("; \n")
        return found


@dataclass(frozen=True)
class Mistral(JsonCalls):
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]name[ARGS]{...}`."""

    mark = "[TOOL_CALLS]"
    opens = ("[TOOL_CALLS]",)
    closes = None

    before: str = '[TOOL_CALLS] [{"name": "'
    middle: str = '", "arguments": '
    after: str = "}]"

    @classmethod
    def _after(cls, before: str, rest: str) -> str:
        return "}]" if "[{" in before.replace(" ", "") else ""  # the list form is closed

    def calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """The list form, or the form with marks, of which several may follow each other."""
        head, again, rest = body.partition(self.mark)
        if again:
            return [*self.calls(head, mark, tools), *self.calls(rest, mark, tools)]
        raw = mark + body
        if "[ARGS]" not in body:
            if body.lstrip().startswith(("[", "{")):
                return load_call(body, raw)
            name, brace, args = body.partition("{")  # name{...}
            return _named(name, brace + args, raw)
        name, _, args = body.partition("[ARGS]")
        return _named(name.partition("[CALL_ID]")[0], args, raw)


def _named(name: str, args: str, raw: str) -> list[ParsedCall]:
    try:
        found = json.loads(args)
    except (ValueError, RecursionError) as error:
        return [ParsedCall(name.strip() or None, None, raw, f"no valid JSON: {error}")]
    if not isinstance(found, dict) or not name.strip():
        return [ParsedCall(name.strip() or None, None, raw, "no name, or no JSON object")]
    return [ParsedCall(name.strip(), found, raw)]
