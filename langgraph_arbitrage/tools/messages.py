"""Converts the pieces of a parsed answer to LangChain messages and chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages.tool import (
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)
from langchain_core.utils.json import parse_partial_json

from langgraph_arbitrage.tools.formats import ParsedCall
from langgraph_arbitrage.tools.parser import Piece

__all__ = ["ChunkWriter", "message_of_pieces"]


def message_of_pieces(pieces: Sequence[Piece], **fields: Any) -> AIMessage:
    """The message of a complete answer: text as content, thinking as reasoning, and tool calls.

    Thinking is in `additional_kwargs["reasoning_content"]`, where `content_blocks` finds it.
    """
    reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    calls = [(piece.call_id, piece.call) for piece in pieces if piece.call is not None]
    return AIMessage(
        content="".join(piece.text for piece in pieces if piece.kind == "text"),
        additional_kwargs={"reasoning_content": reasoning} if reasoning else {},
        tool_calls=[
            tool_call(name=call.name, args=call.args, id=call_id)
            for call_id, call in calls
            if call.name is not None and call.args is not None
        ],
        invalid_tool_calls=[
            _invalid_call(call_id, call)
            for call_id, call in calls
            if call.name is None or call.args is None
        ],
        **fields,
    )


class ChunkWriter:
    """Converts pieces to message chunks."""

    def __init__(self) -> None:
        self._calls = 0

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[AIMessageChunk]:
        """One chunk per piece. A chunk holds a whole call."""
        for piece in pieces:
            if piece.call is not None:
                yield self._call(piece.call_id, piece.call)
            elif piece.kind == "text":
                yield AIMessageChunk(content=piece.text)
            else:
                kwargs = {"reasoning_content": piece.text}
                yield AIMessageChunk(content="", additional_kwargs=kwargs)

    def last(self, **fields: Any) -> AIMessageChunk:
        """The last chunk, with the metadata of the answer."""
        return AIMessageChunk(content="", chunk_position="last", **fields)

    def _call(self, call_id: str, call: ParsedCall) -> AIMessageChunk:
        index = self._calls
        self._calls += 1
        if call.name is None or call.args is None:
            return AIMessageChunk(content="", invalid_tool_calls=[_invalid_call(call_id, call)])
        args = json.dumps(call.args, ensure_ascii=False)
        chunk = tool_call_chunk(name=call.name, args=args, id=call_id, index=index)
        return AIMessageChunk(content="", tool_call_chunks=[chunk])


def _invalid_call(call_id: str, call: ParsedCall) -> InvalidToolCall:
    return invalid_tool_call(name=call.name, args=_broken(call), id=call_id, error=call.error)


def _broken(call: ParsedCall) -> str:
    """The text of an invalid call, changed if LangChain would repair it into a valid one."""
    try:
        repaired = isinstance(parse_partial_json(call.raw), dict)
    except (ValueError, RecursionError):
        repaired = False
    return f"<tool_call>{call.raw}" if repaired or not call.raw.strip() else call.raw
