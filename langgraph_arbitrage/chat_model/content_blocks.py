"""Message chunks whose content is a list of standard content blocks (LangChain's version v1)."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessageChunk

__all__ = ["BlockIndexer"]


class BlockIndexer:
    """Converts the chunks of one answer. Chunks of the same content block get the same index."""

    def __init__(self) -> None:
        self._type = ""
        self._index = -1

    def convert(self, chunk: AIMessageChunk) -> AIMessageChunk:
        """Return the chunk with content blocks."""
        blocks: list[Any] = [self._indexed(dict(call)) for call in chunk.tool_call_chunks]
        blocks += [self._indexed(dict(call)) for call in chunk.invalid_tool_calls]
        if thought := chunk.additional_kwargs.get("reasoning_content"):
            blocks.append(self._indexed({"type": "reasoning", "reasoning": thought}))
        if chunk.content:
            blocks.append(self._indexed({"type": "text", "text": str(chunk.text)}))
        metadata = {**chunk.response_metadata, "output_version": "v1"} if blocks else {}
        return chunk.model_copy(
            update={
                "content": blocks,
                "additional_kwargs": {},
                "response_metadata": metadata or chunk.response_metadata,
            }
        )

    def _indexed(self, block: dict[str, Any]) -> dict[str, Any]:
        """Return the block with its index. Each call gets its own block."""
        if block["type"] != self._type or "name" in block:
            self._type, self._index = block["type"], self._index + 1
        return {**block, "index": self._index}
