"""Assembles an answer from its steps: text, message chunks, and the final message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from langgraph_arbitrage.loop.answer_text import TextRelease
from langgraph_arbitrage.state import StepRecord
from langgraph_arbitrage.tools.messages import ChunkWriter, message_of_pieces
from langgraph_arbitrage.tools.parser import Parser, Piece

__all__ = ["AnswerAssembler", "answer_message"]


class AnswerAssembler:
    """Parses a growing answer once, for the message chunks and for the final message.

    Text is released as soon as no stop string or separator can still remove it. A tool call is
    released when it is complete.
    """

    def __init__(self, parser: Parser, stop: Sequence[str], separators: Sequence[str]) -> None:
        self._parser = parser
        self._release = TextRelease(stop, separators)
        self._writer = ChunkWriter()
        self.pieces: list[Piece] = []
        """All text, reasoning and calls parsed so far."""

    @property
    def text(self) -> str:
        """The text fed so far."""
        return self._release.text

    def feed(self, text: str) -> list[AIMessageChunk]:
        """Append text; return the chunks that later text cannot change."""
        released = self._release.push(text)
        return self._chunks(self._parser.feed(released) if released else [])

    def finish(self, answer: str) -> list[AIMessageChunk]:
        """Return the chunks of the text that was held back, given the complete answer."""
        released = self._release.finish(answer)
        pieces = self._parser.feed(released) if released else []
        return self._chunks([*pieces, *self._parser.finish()])

    def last_chunk(self, message: AIMessage) -> AIMessageChunk:
        """Return the chunk with the metadata of the complete message."""
        return self._writer.last(
            usage_metadata=message.usage_metadata, response_metadata=message.response_metadata
        )

    def _chunks(self, pieces: Sequence[Piece]) -> list[AIMessageChunk]:
        self.pieces += pieces
        return list(self._writer.chunks(pieces))


def answer_message(
    steps: Sequence[StepRecord],
    text: str,
    pieces: Sequence[Piece],
    *,
    model_name: str,
    prompt_tokens: int,
    answer_tokens: int,
    thinking_tokens: int,
    engines: Mapping[str, str],
    finish_reason: str,
    limit: str | None = None,
    draft_context_full: bool = False,
    logprobs: Sequence[Mapping[str, Any]] | None = None,
) -> AIMessage:
    """Build the final message of an answer, with usage and the statistics of every step.

    Args:
        steps: The step records, in order.
        text: The final text. The texts of the steps are trimmed to it.
        pieces: The final text, parsed into text, reasoning and tool calls.
        model_name: The target's name.
        prompt_tokens: Input tokens, by the target's tokenizer.
        answer_tokens: Output tokens, by the target's tokenizer.
        thinking_tokens: Output tokens that are reasoning.
        engines: Backend of each model that was used: `slot`, `plain` or `remote`.
        finish_reason: Why the answer ended.
        limit: Name of the spent budget, if any.
        draft_context_full: Whether the draft's context was full before the answer ended.
        logprobs: Log-probability of each token, if requested.
    """
    shown, rest = [], len(text)
    for step in steps:
        part = step["text"][:rest]
        rest -= len(part)
        shown.append(
            {
                "writer": step["writer"],
                "score": step["score"],
                "tokens": len(step["ids"]),
                "accepted_draft_tokens": step["accepted_draft_tokens"],
                "seconds": step["seconds"],
                "text": part,
            }
        )
    escalated = sum(s["writer"] == "target" for s in steps)
    statistics: dict[str, Any] = {
        "steps": shown,
        "escalation_rate": escalated / len(steps) if steps else 0.0,
        "draft_tokens": sum(len(s["ids"]) for s in steps if s["writer"] == "draft"),
        "target_tokens": sum(len(s["ids"]) for s in steps if s["writer"] == "target"),
        "accepted_draft_tokens": sum(s["accepted_draft_tokens"] for s in steps),
        "discarded_tokens": sum(s["discarded_tokens"] for s in steps),
        "computed_tokens": {
            role: sum(s["computed_tokens"].get(role, 0) for s in steps)
            for role in ("draft", "target", "router")
        },
        "engine": dict(engines),
        "finish_reason": finish_reason,
    }
    if limit:
        statistics["limit"] = limit
    if draft_context_full:
        statistics["draft_context_full"] = True
    usage = UsageMetadata(
        input_tokens=prompt_tokens,
        output_tokens=answer_tokens,
        total_tokens=prompt_tokens + answer_tokens,
        # The writer's tokenizer may count more tokens than the target's.
        input_token_details=InputTokenDetails(
            cache_read=min(steps[0]["cached_tokens"], prompt_tokens) if steps else 0
        ),
        output_token_details=OutputTokenDetails(reasoning=min(thinking_tokens, answer_tokens)),
    )
    metadata: dict[str, Any] = {
        "model_name": model_name,
        "model_provider": "langgraph_arbitrage",
        "finish_reason": finish_reason,
        "arbitrage": statistics,
    }
    if logprobs is not None:
        metadata["logprobs"] = {"content": list(logprobs)}
    return message_of_pieces(pieces, usage_metadata=usage, response_metadata=metadata)
