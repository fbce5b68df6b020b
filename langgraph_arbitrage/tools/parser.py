"""Incremental parser of an answer: text, thinking and tool calls.

Text is returned as soon as it cannot be part of a mark. A call is returned when it is complete,
because an incomplete call may turn out to be text.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from langgraph_arbitrage.tools.formats import CallFormat, ParsedCall, Tool

__all__ = ["THINKING", "AnswerParser", "Parser", "Piece", "open_thinking"]

THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Opening and closing marks of thinking."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer: some text, some thinking or a whole call."""

    kind: Literal["text", "reasoning", "call"]
    text: str = ""
    """The text; empty for a call."""
    call: ParsedCall | None = None
    """The call; None for text and reasoning."""
    call_id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}", compare=False)
    """Id of the call."""


class Parser(Protocol):
    """Splits a growing answer into pieces. Malformed calls never raise."""

    def feed(self, text: str) -> list[Piece]:
        """Append text to the answer and return the pieces that are now complete."""

    def finish(self) -> list[Piece]:
        """End the answer and return the remaining pieces."""


class AnswerParser:
    """Parser of the formats in `tools.formats`.

    Args:
        formats: Formats of calls to parse. Empty if the model has no tools.
        tools: Tools that the model may call.
        closing_mark: Closing mark of the thinking that the prompt opened; None if it opened none.

    Example:
        >>> from langgraph_arbitrage.tools.formats import Hermes
        >>> parser = AnswerParser([Hermes()])
        >>> parser.feed('Let me see. <tool_call>{"name": "now", "arg')[0].text
        'Let me see.'
        >>> parser.feed('uments": {}}</tool_call>')[0].call.name
        'now'
    """

    def __init__(
        self,
        formats: Sequence[CallFormat] = (),
        tools: Sequence[Tool] = (),
        closing_mark: str | None = None,
    ) -> None:
        self._formats = formats
        self._tools = tools
        self._formats_by_mark = {mark: fmt for fmt in formats for mark in fmt.opening_marks}
        self._thinking_marks = dict(THINKING)
        self._buffer = ""
        # The open region: a call if `_format` is set, else thinking if `_closing_mark` is set.
        self._format: CallFormat | None = None
        self._opening_mark = ""  # of the open call; empty for a call without a mark
        self._closing_mark = closing_mark  # None: the open call extends to the end of the answer
        self._space = ""  # trailing whitespace, held back because it is dropped before a call
        self._text_started = False
        self._has_call = False
        self._has_thinking = False  # the latest thinking has text

    def feed(self, text: str) -> list[Piece]:
        """Append text to the answer and return the pieces that are now complete."""
        self._buffer += text
        return self._parse(final=False)

    def finish(self) -> list[Piece]:
        """End the answer and return the remaining pieces."""
        pieces = self._parse(final=True)
        space, self._space = self._space, ""
        if space and not self._has_call and (self._text_started or not self._has_thinking):
            pieces.append(Piece("text", space))
        return pieces

    def _parse(self, final: bool) -> list[Piece]:
        """Parse the buffer as far as possible.

        Each parse method returns an empty list if it needs more text, and an empty piece if it
        only changed the state. Empty pieces are dropped here.
        """
        pieces: list[Piece] = []
        while True:
            parsed = self._parse_region(final) if self._in_region else self._parse_text(final)
            pieces += [p for p in parsed if p.call or p.text]
            if not parsed:
                return pieces

    @property
    def _in_region(self) -> bool:
        return self._closing_mark is not None or self._format is not None

    def _parse_region(self, final: bool) -> list[Piece]:
        """Parse thinking or a call up to its closing mark."""
        at = self._buffer.find(self._closing_mark) if self._closing_mark is not None else -1
        if at < 0 and not final:
            return [] if self._format else self._parse_thinking(len(self._buffer), complete=False)
        body = self._buffer if at < 0 else self._buffer[:at]
        end = len(body) + (len(self._closing_mark or "") if at >= 0 else 0)
        if self._format is None:
            pieces = self._parse_thinking(len(body), complete=True)
            self._buffer = self._buffer[end - len(body) :] if pieces or at >= 0 else ""
            self._closing_mark = None
            return pieces or [Piece("reasoning")]
        fmt, self._format, self._closing_mark = self._format, None, None
        self._buffer = self._buffer[end:]
        calls = fmt.parse_calls(body, self._opening_mark, self._tools)
        if at < 0 and fmt.closing_mark is not None:
            # The body may parse, but the answer was cut off before the end of the call.
            problem = f"the call does not end with {fmt.closing_mark}"
            calls = [ParsedCall(c.name, None, c.raw, c.error or problem) for c in calls]
        names = {tool["function"]["name"] for tool in self._tools}
        if not self._opening_mark and not any(c.name in names or c.args is None for c in calls):
            self._text_started = True  # JSON or a list that only looked like a call
            return [Piece("text", body)]
        self._has_call, self._space = True, ""
        return [Piece("call", call=call) for call in calls] or [Piece("text")]

    def _parse_thinking(self, end: int, *, complete: bool) -> list[Piece]:
        """Take thinking up to index `end` of the buffer.

        Args:
            end: Index of the closing mark, or the length of the buffer.
            complete: The thinking ends there. Otherwise the start of a closing mark is held back.
        """
        text = self._buffer[:end]
        if not complete:
            text = text[: len(text) - _partial_mark_length(text, [self._closing_mark or ""])]
        text = text.rstrip()  # whitespace before the closing mark is not part of the thinking
        self._buffer = self._buffer[end if complete else len(text) :]
        if not self._has_thinking:
            text = text.lstrip()
        self._has_thinking = self._has_thinking or bool(text)
        return [Piece("reasoning", text)] if text else []

    def _parse_text(self, final: bool) -> list[Piece]:
        """Parse text up to the opening mark of thinking or of a call."""
        if not self._buffer and not final:
            return []
        if not self._text_started and not self._has_call:
            for fmt in self._formats:
                starts = fmt.starts_unmarked_call(self._buffer)
                if starts is None and not final and self._buffer:
                    return []
                if starts:
                    self._format, self._opening_mark = fmt, ""
                    self._closing_mark = fmt.closing_mark
                    return [Piece("text")]
        # Thinking precedes the answer: its mark within the text is text.
        head = self._buffer.lstrip()
        may_think = not self._text_started and any(
            head.startswith(mark) or mark.startswith(head) for mark in self._thinking_marks
        )
        marks = [*self._formats_by_mark, *(self._thinking_marks if may_think else ())]
        hits = [(at, -len(mark), mark) for mark in marks if (at := self._buffer.find(mark)) >= 0]
        if hits:
            at, _, mark = min(hits)  # the first mark; the longest one at equal positions
            longer = [m for m in marks if m != mark and m.startswith(mark)]
            undecided = any(m.startswith(self._buffer[at:]) for m in longer)
            if not undecided or final:
                pieces = self._text_pieces(self._buffer[:at])
                self._buffer = self._buffer[at + len(mark) :]
                if mark in self._thinking_marks:
                    self._closing_mark = self._thinking_marks[mark]
                    self._has_thinking = False
                else:
                    self._space = ""
                    self._format, self._opening_mark = self._formats_by_mark[mark], mark
                    self._closing_mark = self._format.closing_mark
                return pieces or [Piece("text")]
        else:
            held = 0 if final else _partial_mark_length(self._buffer, marks)
            at = len(self._buffer) - held
        text, self._buffer = self._buffer[:at], self._buffer[at:]
        return self._text_pieces(text)

    def _text_pieces(self, text: str) -> list[Piece]:
        """Return the text as a piece and hold back its trailing whitespace."""
        text = self._space + text
        stripped = text.rstrip()
        self._space = text[len(stripped) :]
        # Whitespace between thinking or a call and the text that follows is dropped.
        follows_region = (self._has_thinking or self._has_call) and not self._text_started
        if not stripped:
            if follows_region:
                self._space = ""
            return []
        if follows_region:
            stripped = stripped.lstrip()
        self._text_started = True
        return [Piece("text", stripped)]


def _partial_mark_length(text: str, marks: Sequence[str]) -> int:
    """Return the number of trailing characters that may be the start of a mark."""
    longest = max(map(len, marks), default=0)
    for n in range(min(longest, len(text)), 0, -1):
        tail = text[-n:]
        if any(len(mark) > n and mark.startswith(tail) for mark in marks):
            return n
    return 0


def open_thinking(text: str, opening_mark: str | None) -> str | None:
    """Return the closing mark of the thinking that a text ends in; None if it ends outside.

    Args:
        text: The answer so far.
        opening_mark: Opening mark at the end of the prompt; None if the prompt opens no thinking.
    """
    rest = (opening_mark or "") + text
    while True:
        # A mark after other text is text.
        rest = rest.lstrip()
        closing = next((end for start, end in THINKING if rest.startswith(start)), None)
        if closing is None:
            return None
        _, separator, rest = rest.partition(closing)
        if not separator:
            return closing
