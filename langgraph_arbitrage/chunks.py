"""The chunks of a streamed answer, from the events of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk

from langgraph_arbitrage.answer import AnswerStream
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.state import StepWriter
from langgraph_arbitrage.tools.messages import ChunkWriter
from langgraph_arbitrage.tools.parser import Parser

__all__ = ["AnswerChunks"]


class AnswerChunks:
    """Text, thinking and calls as they are certain; the answer's figures on the last chunk."""

    def __init__(
        self,
        answer: AnswerStream,
        writer: ChunkWriter,
        make_parser: Callable[[StepWriter], Parser],
        tell: Callable[[StepEvent], None],
    ) -> None:
        self._answer = answer
        self._writer = writer
        self._make_parser = make_parser
        self._tell = tell
        self._parser: Parser | None = None
        self._begun = False

    def take(self, part: tuple[str, Any]) -> Iterator[ChatGenerationChunk]:
        """The chunks after a part of the graph's stream."""
        mode, data = part
        if mode == "custom":
            self._tell(data)
            kind, text = data["type"], self._answer.take(data)
            writer = data["writer"] if kind in ("writing", "committed") else None
            yield from self._chunks(text, writer, ends=kind == "finished")
        elif data.get("finish_reason"):
            if not self._begun:  # nobody heard of it while it was written
                text = self._answer.whole([step["text"] for step in data["steps"]])
                yield from self._chunks(text, data["steps"][0]["writer"], ends=True)
            message: AIMessage = data["messages"][-1]
            last = self._writer.last(
                usage_metadata=message.usage_metadata, response_metadata=message.response_metadata
            )
            yield ChatGenerationChunk(message=last)
        elif not self._begun:  # a run that is resumed has steps: the message is made of all chunks
            self._begun = True
            for step in data.get("steps", []):
                yield from self._chunks(self._answer.push(step["text"]), step["writer"])

    def _chunks(
        self, text: str, writer: StepWriter | None, *, ends: bool = False
    ) -> Iterator[ChatGenerationChunk]:
        if self._parser is None and writer is not None:
            self._parser = self._make_parser(writer)  # by the first step's writer
        if self._parser is None:
            return
        pieces = self._parser.feed(text) if text else []
        if ends:
            pieces = [*pieces, *self._parser.finish()]
        for chunk in self._writer.chunks(pieces):
            yield ChatGenerationChunk(message=chunk)
