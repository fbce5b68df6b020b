"""A growing answer taken apart: its text, its thinking, its tool calls.

Text is told as early as it is certain; a call is told once it is whole, since half a call can be
no call at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from langgraph_arbitrage.tools.formats import CallFormat, ParsedCall, Tool

__all__ = ["THINKING", "AnswerParser", "Parser", "Piece", "open_thinking"]

THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""What models write before and after their thinking."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer, in order."""

    kind: Literal["text", "reasoning", "call"]
    text: str = ""
    call: ParsedCall | None = None
    call_id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}", compare=False)
    """Id of the call."""


class Parser(Protocol):
    """Takes an answer apart while it grows."""

    def feed(self, text: str) -> list[Piece]:
        """Take more text; what is certain now."""

    def finish(self) -> list[Piece]:
        """The answer is complete; what was held back."""


class AnswerParser:
    """The parser for the formats that are known here.

    Args:
        formats: Formats of calls to look for; none where no tools are offered.
        tools: The tools that are offered.
        thinking: The text that closes the thinking that the prompt has opened, if it has.

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
        thinking: str | None = None,
    ) -> None:
        self._formats = formats
        self._tools = tools
        self._buffer = ""
        self._close = thinking
        """What ends the region; with thinking and calls of some formats, the end of the answer."""
        self._format: CallFormat | None = None  # of the call that is being written
        self._mark = ""
        self._space = ""  # white space that may turn out to stand before a call, or at the end
        self._begun = False  # some text of the answer is told, so that no bare call can begin
        self._called = False
        self._thought = False
        self._marks = {mark: fmt for fmt in formats for mark in fmt.opens}
        self._thinks = dict(THINKING)

    def feed(self, text: str) -> list[Piece]:
        """Take more text; what is certain now."""
        self._buffer += text
        return self._pieces(ended=False)

    def finish(self) -> list[Piece]:
        """The answer is complete; what was held back."""
        pieces = self._pieces(ended=True)
        space, self._space = self._space, ""
        if space and not self._called and (self._begun or not self._thought):
            pieces.append(Piece("text", space))
        return pieces

    def _pieces(self, ended: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            found = self._region(ended) if self._inside else self._outside(ended)
            pieces += [p for p in found if p.call or p.text]
            if not found:
                return pieces

    @property
    def _inside(self) -> bool:
        return self._close is not None or self._format is not None

    def _region(self, ended: bool) -> list[Piece]:
        """Thinking, or a call, up to its close."""
        at = self._buffer.find(self._close) if self._close is not None else -1
        if at < 0 and not ended:
            return [] if self._format else self._think(len(self._buffer), done=False)
        body = self._buffer if at < 0 else self._buffer[:at]
        after = len(body) + (len(self._close or "") if at >= 0 else 0)
        if self._format is None:
            pieces = self._think(len(body), done=True)
            self._buffer = self._buffer[after - len(body) :] if pieces or at >= 0 else ""
            self._close = None
            return pieces or [Piece("reasoning")]
        fmt, self._format, self._close = self._format, None, None
        unclosed = at < 0 and fmt.closes is not None
        self._buffer = self._buffer[after:]
        calls = fmt.calls(body, self._mark, self._tools)
        if unclosed:  # it may read as a whole one: it is not
            told = f"the call is not closed by {fmt.closes}"
            calls = [ParsedCall(c.name, None, c.raw, c.error or told) for c in calls]
        known = {tool["function"]["name"] for tool in self._tools}
        if not self._mark and not any(c.name in known or c.args is None for c in calls):
            self._begun = True  # it looked like a call, and is some other JSON
            return [Piece("text", body)]
        self._called, self._space = True, ""
        return [Piece("call", call=call) for call in calls] or [Piece("text")]

    def _think(self, end: int, *, done: bool) -> list[Piece]:
        """Thinking up to `end`, without what may be the beginning of its close."""
        text = self._buffer[:end]
        if not done:
            text = text[: len(text) - _beginning(text, [self._close or ""])]
        text = text.rstrip()  # white space before the close is none of it
        self._buffer = self._buffer[end if done else len(text) :]
        if not self._thought:
            text = text.lstrip()
        self._thought = self._thought or bool(text)
        return [Piece("reasoning", text)] if text else []

    def _outside(self, ended: bool) -> list[Piece]:
        """Text, up to the mark of thinking or of a call."""
        if not self._buffer and not ended:
            return []
        if not self._begun and not self._called:
            for fmt in self._formats:
                begins = fmt.may_begin(self._buffer)
                if begins is None and not ended and self._buffer:
                    return []
                if begins:
                    self._format, self._close, self._mark = fmt, fmt.closes, ""
                    return [Piece("text")]
        # Thinking comes before the answer: a mark of it inside of the text is text.
        head = self._buffer.lstrip()
        thinks = not self._begun and any(
            head.startswith(mark) or mark.startswith(head) for mark in self._thinks
        )
        marks = [*self._marks, *(self._thinks if thinks else ())]
        hits = [(at, -len(mark), mark) for mark in marks if (at := self._buffer.find(mark)) >= 0]
        if hits:
            at, _, mark = min(hits)
            longer = [m for m in marks if m != mark and m.startswith(mark)]
            undecided = any(m.startswith(self._buffer[at:]) for m in longer)
            if not undecided or ended:
                pieces = self._text(self._buffer[:at])
                self._buffer = self._buffer[at + len(mark) :]
                if mark in self._thinks:
                    self._close = self._thinks[mark]
                    self._thought = False
                else:
                    self._space = ""
                    self._format = self._marks[mark]
                    self._close, self._mark = self._format.closes, mark
                return pieces or [Piece("text")]
        else:
            at = len(self._buffer) - (0 if ended else _beginning(self._buffer, marks))
        text, self._buffer = self._buffer[:at], self._buffer[at:]
        return self._text(text)

    def _text(self, text: str) -> list[Piece]:
        """Text without the white space at its end, which is kept until something follows."""
        text = self._space + text
        bare = text.rstrip()
        self._space = text[len(bare) :]
        follows = (self._thought or self._called) and not self._begun
        if not bare:
            if follows:
                self._space = ""  # between the thinking, or a call, and the answer
            return []
        if follows:
            bare = bare.lstrip()
        self._begun = True
        return [Piece("text", bare)]


def _beginning(text: str, marks: Sequence[str]) -> int:
    """Characters at the end of a text that may begin a mark."""
    longest = max(map(len, marks), default=0)
    for n in range(min(longest, len(text)), 0, -1):
        tail = text[-n:]
        if any(len(mark) > n and mark.startswith(tail) for mark in marks):
            return n
    return 0


def open_thinking(text: str, opened: str | None) -> str | None:
    """What would close the thinking at the end of a text; None where it is in none.

    Args:
        text: The answer so far.
        opened: The mark of thinking that the prompt has opened, if it has.
    """
    rest = (opened or "") + text
    while True:
        rest = rest.lstrip()  # a mark behind other text is text
        close = next((close for opening, close in THINKING if rest.startswith(opening)), None)
        if close is None:
            return None
        _, closed, rest = rest.partition(close)
        if not closed:
            return close
