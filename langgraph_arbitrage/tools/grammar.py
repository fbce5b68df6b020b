"""Build the grammar of an answer, in llguidance's variant of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph_arbitrage.tools.formats import CallFormat, Tool
from langgraph_arbitrage.tools.schemas import forbid_extra_properties

__all__ = ["answer_grammar"]

# The style of Python's `json.dumps`, in which models read JSON in their prompts.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_TEXT = r"/(?s:.*)/"


def answer_grammar(
    *,
    call_format: CallFormat | None = None,
    tools: Sequence[Tool] = (),
    parallel_calls: bool = False,
    free_text: bool = False,
    schema: Mapping[str, Any] | None = None,
    thinking: tuple[str | None, str] | None = None,
    marks: Mapping[str, int] | None = None,
) -> str:
    """Build the Lark grammar of an answer: a call of one of the tools, or JSON of the schema.

    Args:
        call_format: Format of the calls.
        tools: Tools that the answer may call.
        parallel_calls: Allow several calls in one answer.
        free_text: Allow any text and constrain only the calls in it. The opening mark of
            `call_format` must be a single token.
        schema: JSON schema of an answer without a call.
        thinking: Opening and closing mark of the thinking that may precede the answer. The opening
            mark is None if the prompt already contains it. Default: None, no thinking.
        marks: Maps texts to token ids. The grammar refers to these tokens by id.
    """
    rules = _Rules(marks or {})
    alternatives = []
    if call_format and tools:
        calls = [rules.sequence(call_format.grammar_parts(tool)) for tool in tools]
        call = rules.rule(" | ".join(calls))
        if parallel_calls and call_format.closing_mark:
            call = f"{call} ({rules.literal(chr(10))} {call})*"
        alternatives.append(call)
    if schema is not None:
        alternatives.append(rules.json(schema))
    body = " | ".join(alternatives)
    if free_text:
        text = rules.rule(ANY_TEXT)
        body = f"{text} ({alternatives[0]} {text})*"
    if thinking is not None:
        opening, closing = thinking
        thought = f"{rules.until(closing)} {rules.pattern('[ ' + chr(92) + 'n]*')}"
        prefix = thought if opening is None else f"({rules.literal(opening)} {thought})?"
        body = f"{prefix} ({body})"
    return "\n".join([f"start: {body}", *rules.lines])


class _Rules:
    """Collects numbered rules. Each method returns an expression for use in other rules."""

    def __init__(self, marks: Mapping[str, int]) -> None:
        self.lines: list[str] = []
        self._ids = marks
        self._marks = re.compile("|".join(map(re.escape, marks))) if marks else None

    def rule(self, body: str, options: str = "") -> str:
        """Add a rule."""
        name = f"r{len(self.lines)}"
        self.lines.append(f"{name}{options}: {body}")
        return name

    def pattern(self, regex: str) -> str:
        """Add a terminal that matches a regular expression."""
        name = f"T{len(self.lines)}"
        self.lines.append(f"{name}: /{regex}/")
        return name

    def json(self, schema: Mapping[str, Any]) -> str:
        """Add a rule for JSON of a schema."""
        options = {**forbid_extra_properties(schema), "x-guidance": JSON_STYLE}
        return self.rule("%json " + json.dumps(options))

    def literal(self, text: str) -> str:
        """Return an expression for a text, with the marks in it by token id."""
        parts, start = [], 0
        for mark in self._marks.finditer(text) if self._marks else ():
            if mark.start() > start:
                parts.append(json.dumps(text[start : mark.start()]))
            parts.append(f"<[{self._ids[mark[0]]}]>")
            start = mark.end()
        if start < len(text) or not parts:
            parts.append(json.dumps(text[start:]))
        return " ".join(parts)

    def until(self, end: str) -> str:
        """Return an expression for any text that ends with the first `end`."""
        if end in self._ids:
            return f"{self.rule(ANY_TEXT)} {self.literal(end)}"
        return self.rule(ANY_TEXT, f"[suffix={json.dumps(end)}]")

    def sequence(self, parts: Iterable[Any]) -> str:
        """Add a rule for the parts of a call, as returned by `CallFormat.grammar_parts`."""
        expressions, parts = [], list(parts)
        i = 0
        while i < len(parts):
            part = parts[i]
            if part is None:  # free text; `until` also consumes the literal that follows
                i += 1
                expressions.append(self.until(parts[i]))
            elif isinstance(part, str):
                expressions += [self.literal(part)] if part else []
            elif isinstance(part, tuple):
                choices = " | ".join(self.literal(str(text)) for text in part)
                expressions.append(f"({choices})")
            elif isinstance(part, list):
                expressions.append(f"({self.sequence(part)})?")
            else:
                expressions.append(self.json(part))
            i += 1
        return self.rule(" ".join(expressions))
