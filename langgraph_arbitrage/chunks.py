"""The chunks of a streamed answer, from the events of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk

from langgraph_arbitrage.answer import AnswerStream
from langgraph_arbitrage.policies import Writer
from langgraph_arbitrage.tools.messages import ChunkWriter
from langgraph_arbitrage.tools.parser import Parser

__all__ = ["AnswerChunks"]


class AnswerChunks:
    """Text, thinking and calls as they are certain; the answer's figures on the last chunk."""

    def __init__(
        self,
        answer: AnswerStream,
        writer: ChunkWriter,
        make_parser: Callable[[Writer], Parser],
    ) -> None:
        self._answer = answer
        self._writer = writer
        self._make_parser = make_parser
        self._parser: Parser | None = None

    def take(self, part: tuple[str, Any]) -> Iterator[ChatGenerationChunk]:
        """The chunks after a part of the graph's stream."""
        mode, data = part
        if mode == "custom":
            text = self._answer.take(data)
            if self._parser is None and data.get("writer") and data["type"] != "drafted":
                self._parser = self._make_parser(data["writer"])  # by the first step's writer
            pieces = self._parser.feed(text) if self._parser and text else []
            if self._parser and data["type"] == "finished":
                pieces += self._parser.finish()
            for chunk in self._writer.chunks(pieces):
                yield ChatGenerationChunk(message=chunk)
        elif data.get("finish_reason"):
            message: AIMessage = data["messages"][-1]
            last = self._writer.last(
                usage_metadata=message.usage_metadata, response_metadata=message.response_metadata
            )
            yield ChatGenerationChunk(message=last)
