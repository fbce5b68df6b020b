"""Parsing by a checkpoint's own response template, with transformers' parser."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.parser import Piece

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Tokenizer

__all__ = ["TemplateParser"]

REASONING = ("reasoning_content", "thinking", "reasoning")
CALLS = "tool_calls"
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)  # what its content parsers raise


class TemplateParser:
    """What `AnswerParser` does, for a tokenizer that has a `response_template`.

    A region that transformers cannot read is a call that cannot be read, not an error: parsing
    goes on after it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Mapping[str, Any],
        tools: Sequence[Tool],
        opened: str | None,
    ) -> None:
        self._make: Callable[[str], Any] = lambda prefix: tokenizer.hf.get_response_parser(
            dict(template), prefix=prefix, tools=[dict(tool) for tool in tools]
        )
        self._parser = self._make(opened or "")
        self._fed = ""  # all that this parser has got
        self._raw = ""  # of the region that is open

    def feed(self, text: str) -> list[Piece]:
        """Take more text; what is certain now."""
        try:
            events = self._parser.feed(text)
        except UNREADABLE:
            return self._again(text)
        self._fed += text
        return self._pieces(events)

    def finish(self) -> list[Piece]:
        """The answer is complete; what was held back."""
        try:
            _, events = self._parser.finalize()
        except UNREADABLE as error:
            return [self._unreadable(error)]
        return self._pieces(events)

    def _again(self, text: str) -> list[Piece]:
        """Feed a text that holds something unreadable, one character at a time."""
        self._parser = self._make("")
        self._parser.feed(self._fed)
        pieces: list[Piece] = []
        for character in text:
            try:
                pieces += self._pieces(self._parser.feed(character))
                self._fed += character
            except UNREADABLE as error:
                pieces.append(self._unreadable(error))
                self._parser, self._fed = self._make(""), ""
        return pieces

    def _unreadable(self, error: Exception) -> Piece:
        raw, self._raw = self._raw, ""
        return Piece("call", call=ParsedCall(None, None, raw, f"it cannot be read: {error}"))

    def _pieces(self, events: Sequence[Mapping[str, Any]]) -> list[Piece]:
        pieces = []
        for event in events:
            field, kind = event["field"], event["type"]
            if kind == "region_open":
                self._raw = ""
            elif kind == "region_chunk":
                self._raw += event["text"]
                if field == "content":
                    pieces.append(Piece("text", event["text"]))
                elif field in REASONING:
                    pieces.append(Piece("reasoning", event["text"]))
            elif kind == "region_close" and field == CALLS:
                values = event["value"]
                several = values if isinstance(values, list) else [values]
                pieces += [Piece("call", call=self._call(value)) for value in several]
        return pieces

    def _call(self, value: Any) -> ParsedCall:
        function = value.get("function", value) if isinstance(value, Mapping) else {}
        name, args = function.get("name"), function.get("arguments")
        if isinstance(args, str):
            try:
                args = json.loads(args)
            except ValueError:
                args = None
        if not isinstance(name, str) or not isinstance(args, dict):
            return ParsedCall(
                name if isinstance(name, str) else None, None, self._raw, "no name or no arguments"
            )
        return ParsedCall(name, args, self._raw)
