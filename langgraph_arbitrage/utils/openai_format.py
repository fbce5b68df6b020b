"""Converts answers to OpenAI chat completions and streamed chat completion chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, AIMessageChunk

__all__ = ["ChunkBuilder", "chat_completion", "usage_of"]

STATISTICS = (
    *("escalation_rate", "draft_tokens", "target_tokens", "accepted_draft_tokens"),
    *("discarded_tokens", "finish_reason"),
)
"""Statistics in the field `arbitrage` of a completion, in addition to the step counts."""


def chat_completion(message: AIMessage, model: str) -> dict[str, Any]:
    """Build the `chat.completion` object of an answer.

    The non-standard field `arbitrage` contains statistics of the answer.

    Args:
        message: The answer.
        model: Value of the field `model`.
    """
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": _message(message),
                "logprobs": _logprobs(message.response_metadata),
                "finish_reason": _finish_reason(message),
            }
        ],
        "usage": usage_of(message),
        "arbitrage": _statistics(message.response_metadata),
    }


class ChunkBuilder:
    """Builds the `chat.completion.chunk` objects of one streamed answer.

    Args:
        model: Value of the field `model`.
        usage: Whether the stream ends with a chunk that contains the token usage.
    """

    def __init__(self, model: str, *, usage: bool) -> None:
        self._usage = usage
        self._tool_calls = 0  # number of tool calls in the chunks so far
        self._header = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def first(self) -> dict[str, Any]:
        """Build the first chunk, which contains the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunks(self, part: AIMessageChunk) -> Iterator[dict[str, Any]]:
        """Build the chunks for `part`, a message chunk of the answer."""
        if reasoning := part.additional_kwargs.get("reasoning_content"):
            yield self._chunk({"reasoning_content": reasoning})
        if part.content:
            yield self._chunk({"content": part.text})
        calls = [_tool_call(c["id"], c["name"], c["args"]) for c in part.tool_call_chunks]
        calls += [
            _tool_call(c["id"], c["name"], c["args"]) for c in part.invalid_tool_calls if c["name"]
        ]
        if calls:
            indexed = [{**call, "index": self._tool_calls + i} for i, call in enumerate(calls)]
            self._tool_calls += len(calls)
            yield self._chunk({"tool_calls": indexed})
        if text := _nameless_calls(part):
            yield self._chunk({"content": text})
        if part.chunk_position == "last":
            reason = "tool_calls" if self._tool_calls else _text_reason(part.response_metadata)
            last = self._chunk({}, reason)
            last["choices"][0]["logprobs"] = _logprobs(part.response_metadata)
            yield {**last, "arbitrage": _statistics(part.response_metadata)}
            if self._usage:
                yield {**self._header, "choices": [], "usage": usage_of(part)}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._header, "choices": [choice]}


def usage_of(message: AIMessage) -> dict[str, Any]:
    """Return the token usage of an answer, counted with the target's tokenizer."""
    usage = message.usage_metadata or {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    prompt = usage.get("input_token_details", {})
    completion = usage.get("output_token_details", {})
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": prompt.get("cache_read", 0)},
        "completion_tokens_details": {"reasoning_tokens": completion.get("reasoning", 0)},
    }


def _message(message: AIMessage) -> dict[str, Any]:
    text = message.text + _nameless_calls(message)
    converted: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        converted["reasoning_content"] = reasoning
    calls = [
        _tool_call(c["id"], c["name"], json.dumps(c["args"], ensure_ascii=False))
        for c in message.tool_calls
    ]
    calls += [
        _tool_call(c["id"], c["name"], c["args"]) for c in message.invalid_tool_calls if c["name"]
    ]
    if calls:
        converted |= {"content": text or None, "tool_calls": calls}
    return converted


def _tool_call(call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments or ""}
    return {"id": call_id, "type": "function", "function": function}


def _nameless_calls(message: AIMessage) -> str:
    """Return the text of invalid tool calls without a name. Clients receive it as content."""
    return "".join(c["args"] or "" for c in message.invalid_tool_calls if not c["name"])


def _finish_reason(message: AIMessage) -> str:
    has_calls = message.tool_calls or any(c["name"] for c in message.invalid_tool_calls)
    return "tool_calls" if has_calls else _text_reason(message.response_metadata)


def _text_reason(metadata: Mapping[str, Any]) -> str:
    """Return the finish reason of an answer without tool calls."""
    return "stop" if metadata["finish_reason"] == "stop" else "length"


def _logprobs(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    logprobs = metadata.get("logprobs")
    if logprobs is None:
        return None
    return {
        "content": [{**token, "top_logprobs": []} for token in logprobs["content"]],
        "refusal": None,
    }


def _statistics(metadata: Mapping[str, Any]) -> dict[str, Any]:
    statistics = metadata["arbitrage"]
    return {
        "steps": len(statistics["steps"]),
        "escalated": sum(s["writer"] == "target" for s in statistics["steps"]),
        **{name: statistics[name] for name in STATISTICS},
    }
