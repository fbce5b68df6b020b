"""Convert the pieces of a parsed answer to LangChain messages and chunks."""

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
    """Build the message of a complete answer from its text, thinking and tool calls.

    Thinking is stored in `additional_kwargs["reasoning_content"]`, from which LangChain's
    `content_blocks` reads it. Malformed calls are stored in `invalid_tool_calls`.

    Args:
        pieces: Pieces of the answer, in order.
        fields: Further fields of the message.
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
    """Converts the pieces of one answer to message chunks."""

    def __init__(self) -> None:
        self._call_count = 0

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[AIMessageChunk]:
        """Yield one chunk per piece. A call is never split across chunks."""
        for piece in pieces:
            if piece.call is not None:
                yield self._call(piece.call_id, piece.call)
            elif piece.kind == "text":
                yield AIMessageChunk(content=piece.text)
            else:
                kwargs = {"reasoning_content": piece.text}
                yield AIMessageChunk(content="", additional_kwargs=kwargs)

    def last(self, **fields: Any) -> AIMessageChunk:
        """Return the last chunk, with the metadata of the answer as fields."""
        return AIMessageChunk(content="", chunk_position="last", **fields)

    def _call(self, call_id: str, call: ParsedCall) -> AIMessageChunk:
        index = self._call_count
        self._call_count += 1
        if call.name is None or call.args is None:
            return AIMessageChunk(content="", invalid_tool_calls=[_invalid_call(call_id, call)])
        args = json.dumps(call.args, ensure_ascii=False)
        chunk = tool_call_chunk(name=call.name, args=args, id=call_id, index=index)
        return AIMessageChunk(content="", tool_call_chunks=[chunk])


def _invalid_call(call_id: str, call: ParsedCall) -> InvalidToolCall:
    return invalid_tool_call(name=call.name, args=_invalid_args(call), id=call_id, error=call.error)


def _invalid_args(call: ParsedCall) -> str:
    """Return the text of an invalid call.

    LangChain repairs incomplete JSON, and would turn the text into a valid call. A mark before the
    text prevents this.
    """
    try:
        repairable = isinstance(parse_partial_json(call.raw), dict)
    except (ValueError, RecursionError):
        repairable = False
    return f"<tool_call>{call.raw}" if repairable or not call.raw.strip() else call.raw
