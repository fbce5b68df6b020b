"""The grammar of an answer, in llguidance's Lark: calls of the offered tools, JSON of a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph_arbitrage.tools.formats import CallFormat, Tool
from langgraph_arbitrage.tools.schemas import closed

__all__ = ["answer_grammar"]

# As Python's json writes it, which is what models read in their prompts: no other white space.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANYTHING = r"/(?s:.*)/"


def answer_grammar(
    *,
    form: CallFormat | None = None,
    tools: Sequence[Tool] = (),
    several: bool = False,
    free: bool = False,
    schema: Mapping[str, Any] | None = None,
    thinking: tuple[str | None, str] | None = None,
    marks: Mapping[str, int] | None = None,
) -> str:
    """A Lark grammar of an answer that is a call of one of the tools, or JSON of the schema.

    Args:
        form: How calls are written.
        tools: Tools that may be called.
        several: Calls may follow each other.
        free: The answer is any text; only the calls in it are bound to the schemas. Needs a form
            whose mark is a token of its own.
        schema: JSON schema of an answer that is no call.
        thinking: The mark that opens thinking (None where the prompt has opened it) and the one
            that closes it, where the model may think first.
        marks: Tokens that a grammar has to name by their ids, by their text.
    """
    rules = _Rules(marks or {})
    options = [rules.sequence(form.grammar(tool)) for tool in tools] if form else []
    start = []
    if options:
        start.append(rules.rule(" | ".join(options)))
        if several and form and form.closes:
            start[0] = f"{start[0]} ({rules.literal(chr(10))} {start[0]})*"
    if schema is not None:
        start.append(rules.json(schema))
    body = " | ".join(start)
    if free:
        text = rules.rule(ANYTHING)
        body = f"{text} ({start[0]} {text})*"
    if thinking is not None:
        opens, closes = thinking
        thought = f"{rules.until(closes)} {rules.pattern('[ ' + chr(92) + 'n]*')}"
        prefix = thought if opens is None else f"({rules.literal(opens)} {thought})?"
        body = f"{prefix} ({body})"
    return "\n".join([f"start: {body}", *rules.lines])


class _Rules:
    """Numbered rules; each method returns an expression that can stand in another rule."""

    def __init__(self, marks: Mapping[str, int]) -> None:
        self.lines: list[str] = []
        self._ids = marks
        self._marks = re.compile("|".join(map(re.escape, marks))) if marks else None

    def rule(self, body: str, options: str = "") -> str:
        name = f"r{len(self.lines)}"
        self.lines.append(f"{name}{options}: {body}")
        return name

    def pattern(self, regex: str) -> str:
        name = f"T{len(self.lines)}"
        self.lines.append(f"{name}: /{regex}/")
        return name

    def json(self, schema: Mapping[str, Any]) -> str:
        return self.rule("%json " + json.dumps({**closed(schema), "x-guidance": JSON_STYLE}))

    def literal(self, text: str) -> str:
        """A text, with marks by their ids."""
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
        """Any text up to `end`, and `end`."""
        if end in self._ids:
            return f"{self.rule(ANYTHING)} {self.literal(end)}"
        return self.rule(ANYTHING, f"[suffix={json.dumps(end)}]")

    def sequence(self, parts: Iterable[Any]) -> str:
        """The parts of a call, as `CallFormat.grammar` gives them."""
        found, parts = [], list(parts)
        i = 0
        while i < len(parts):
            part = parts[i]
            if part is None:  # free text, up to the literal that follows
                i += 1
                found.append(self.until(parts[i]))
            elif isinstance(part, str):
                found += [self.literal(part)] if part else []
            elif isinstance(part, tuple):
                found.append("(" + " | ".join(self.literal(str(text)) for text in part) + ")")
            elif isinstance(part, list):
                found.append(f"({self.sequence(part)})?")
            else:
                found.append(self.json(part))
            i += 1
        return self.rule(" ".join(found))
