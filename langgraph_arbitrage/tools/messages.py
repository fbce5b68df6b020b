"""Pieces of an answer as LangChain's messages and chunks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.utils.json import parse_partial_json

from langgraph_arbitrage.tools.formats import ParsedCall
from langgraph_arbitrage.tools.parser import Piece

__all__ = ["ChunkWriter", "message_of_pieces"]


def message_of_pieces(pieces: Sequence[Piece], **fields: Any) -> AIMessage:
    """The message of a whole answer: its text as content, its thinking as reasoning, its calls.

    Thinking stands in `additional_kwargs["reasoning_content"]`, where `content_blocks` finds it.
    """
    thought = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    calls = [piece.call for piece in pieces if piece.call is not None]
    return AIMessage(
        content="".join(piece.text for piece in pieces if piece.kind == "text"),
        additional_kwargs={"reasoning_content": thought} if thought else {},
        tool_calls=[
            tool_call(name=call.name, args=call.args, id=_new_id())
            for call in calls
            if call.name is not None and call.args is not None
        ],
        invalid_tool_calls=[
            invalid_tool_call(name=call.name, args=_broken(call), id=_new_id(), error=call.error)
            for call in calls
            if call.name is None or call.args is None
        ],
        **fields,
    )


class ChunkWriter:
    """Makes chunks of pieces. With `blocks`, content is a list of standard blocks (version v1)."""

    def __init__(self, *, blocks: bool) -> None:
        self._blocks = blocks
        self._kind = ""
        self._index = -1
        self._calls = 0

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[AIMessageChunk]:
        """One chunk a piece; a call is whole in its chunk."""
        for piece in pieces:
            if piece.kind != self._kind or piece.call is not None:
                self._kind, self._index = piece.kind, self._index + 1
            yield self._chunk(piece)

    def last(self, **fields: Any) -> AIMessageChunk:
        """The chunk that carries the figures of the answer."""
        content: Any = [] if self._blocks else ""
        return AIMessageChunk(content=content, chunk_position="last", **fields)

    def _chunk(self, piece: Piece) -> AIMessageChunk:
        if piece.call is not None:
            return self._call(piece.call)
        if not self._blocks:
            if piece.kind == "text":
                return AIMessageChunk(content=piece.text)
            kwargs = {"reasoning_content": piece.text}
            return AIMessageChunk(content="", additional_kwargs=kwargs)
        block = {"type": piece.kind, piece.kind: piece.text, "index": self._index}
        return self._with_blocks(block)

    def _call(self, call: ParsedCall) -> AIMessageChunk:
        index = self._index if self._blocks else self._calls
        self._calls += 1
        if call.name is None or call.args is None:
            wrong = invalid_tool_call(
                name=call.name, args=_broken(call), id=_new_id(), error=call.error
            )
            if not self._blocks:
                return AIMessageChunk(content="", invalid_tool_calls=[wrong])
            return self._with_blocks({**wrong, "index": index}, invalid_tool_calls=[wrong])
        args = json.dumps(call.args, ensure_ascii=False)
        chunk = tool_call_chunk(name=call.name, args=args, id=_new_id(), index=index)
        if not self._blocks:
            return AIMessageChunk(content="", tool_call_chunks=[chunk])
        return self._with_blocks(dict(chunk), tool_call_chunks=[chunk])

    def _with_blocks(self, block: dict[str, Any], **fields: Any) -> AIMessageChunk:
        return AIMessageChunk(content=[block], response_metadata={"output_version": "v1"}, **fields)


def _broken(call: ParsedCall) -> str:
    """The text of a call that is none, such that no reader of chunks repairs it into one."""
    try:
        repaired = isinstance(parse_partial_json(call.raw), dict)
    except (ValueError, RecursionError):
        repaired = False
    return f"<tool_call>{call.raw}" if repaired or not call.raw.strip() else call.raw


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
