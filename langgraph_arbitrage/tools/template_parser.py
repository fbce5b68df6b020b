"""Parse answers with the response template of a checkpoint, by transformers' parser."""

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
"""Names of the fields that hold thinking."""
CALLS = "tool_calls"
"""Name of the field that holds tool calls."""
PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""Errors that transformers' content parsers raise for malformed text."""


class TemplateParser:
    """A `Parser` for tokenizers with a `response_template`.

    A region that transformers cannot parse becomes an invalid call, and parsing continues after it.

    Args:
        tokenizer: Tokenizer of the checkpoint.
        template: The response template.
        tools: Tools that the model may call.
        opening_mark: Opening mark of the thinking that the prompt opened; None if it opened none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Mapping[str, Any],
        tools: Sequence[Tool],
        opening_mark: str | None,
    ) -> None:
        self._new_parser: Callable[[str], Any] = lambda prefix: tokenizer.hf.get_response_parser(
            dict(template), prefix=prefix, tools=[dict(tool) for tool in tools]
        )
        self._parser = self._new_parser(opening_mark or "")
        self._parsed = ""  # the text that the current parser has received
        self._raw = ""  # the text of the open region

    def feed(self, text: str) -> list[Piece]:
        """Append text to the answer and return the pieces that are now complete."""
        try:
            events = self._parser.feed(text)
        except PARSE_ERRORS:
            return self._feed_characters(text)
        self._parsed += text
        return self._pieces(events)

    def finish(self) -> list[Piece]:
        """End the answer and return the remaining pieces."""
        try:
            _, events = self._parser.finalize()
        except PARSE_ERRORS as error:
            return [self._invalid_call(error)]
        return self._pieces(events)

    def _feed_characters(self, text: str) -> list[Piece]:
        """Feed a text with a malformed region by single characters.

        A parser that raised is unusable. The text before it is therefore fed to a new one.
        """
        self._parser = self._new_parser("")
        self._parser.feed(self._parsed)
        pieces: list[Piece] = []
        for character in text:
            try:
                pieces += self._pieces(self._parser.feed(character))
                self._parsed += character
            except PARSE_ERRORS as error:
                pieces.append(self._invalid_call(error))
                self._parser, self._parsed = self._new_parser(""), ""
        return pieces

    def _invalid_call(self, error: Exception) -> Piece:
        raw, self._raw = self._raw, ""
        return Piece("call", call=ParsedCall(None, None, raw, f"the call is malformed: {error}"))

    def _pieces(self, events: Sequence[Mapping[str, Any]]) -> list[Piece]:
        """Convert the events of transformers' parser."""
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
                value = event["value"]
                calls = value if isinstance(value, list) else [value]
                pieces += [Piece("call", call=self._parse_call(call)) for call in calls]
        return pieces

    def _parse_call(self, value: Any) -> ParsedCall:
        function = value.get("function", value) if isinstance(value, Mapping) else {}
        name, args = function.get("name"), function.get("arguments")
        if isinstance(args, str):
            try:
                args = json.loads(args)
            except ValueError:
                args = None
        if not isinstance(name, str):
            return ParsedCall(None, None, self._raw, "the call has no tool name")
        if not isinstance(args, dict):
            problem = "the arguments of the call are not a JSON object"
            return ParsedCall(name, None, self._raw, problem)
        return ParsedCall(name, args, self._raw)
