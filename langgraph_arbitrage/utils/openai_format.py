"""An answer in the forms of OpenAI's HTTP interface: chat completions, whole and in chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, AIMessageChunk

__all__ = ["ChunkForm", "chat_completion", "usage_of"]

FIGURES = (
    *("escalation_rate", "draft_tokens", "target_tokens", "accepted_draft_tokens"),
    *("discarded_tokens", "finish_reason"),
)


def chat_completion(message: AIMessage, model: str) -> dict[str, Any]:
    """The `chat.completion` of an answer; `arbitrage` holds its figures.

    Args:
        message: The answer.
        model: The model's name, as the caller knows it.
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
        "arbitrage": _figures(message.response_metadata),
    }


class ChunkForm:
    """The `chat.completion.chunk`s of one streamed answer.

    Args:
        model: The model's name, as the caller knows it.
        usage: Whether a last chunk tells the usage.
    """

    def __init__(self, model: str, *, usage: bool) -> None:
        self._usage = usage
        self._called = 0
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def begin(self) -> dict[str, Any]:
        """The chunk before all others."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunks(self, part: AIMessageChunk) -> Iterator[dict[str, Any]]:
        """The chunks of a part of the answer."""
        if thought := part.additional_kwargs.get("reasoning_content"):
            yield self._chunk({"reasoning_content": thought})
        if part.content:
            yield self._chunk({"content": part.text})
        calls = [_call(c["id"], c["name"], c["args"]) for c in part.tool_call_chunks]
        calls += [
            _call(c["id"], c["name"], c["args"]) for c in part.invalid_tool_calls if c["name"]
        ]
        if calls:
            indexed = [{**call, "index": self._called + i} for i, call in enumerate(calls)]
            self._called += len(calls)
            yield self._chunk({"tool_calls": indexed})
        if broken := _broken(part):
            yield self._chunk({"content": broken})
        if part.chunk_position == "last":
            reason = "tool_calls" if self._called else _reason(part.response_metadata)
            last = self._chunk({}, reason)
            last["choices"][0]["logprobs"] = _logprobs(part.response_metadata)
            yield {**last, "arbitrage": _figures(part.response_metadata)}
            if self._usage:
                yield {**self._head, "choices": [], "usage": usage_of(part)}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "choices": [choice]}


def usage_of(message: AIMessage) -> dict[str, Any]:
    """The tokens of an answer, counted by the target's tokenizer."""
    usage = message.usage_metadata or {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    read, written = usage.get("input_token_details", {}), usage.get("output_token_details", {})
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": read.get("cache_read", 0)},
        "completion_tokens_details": {"reasoning_tokens": written.get("reasoning", 0)},
    }


def _message(message: AIMessage) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": message.text + _broken(message)}
    if thought := message.additional_kwargs.get("reasoning_content"):
        found["reasoning_content"] = thought
    calls = [
        _call(c["id"], c["name"], json.dumps(c["args"], ensure_ascii=False))
        for c in message.tool_calls
    ]
    calls += [_call(c["id"], c["name"], c["args"]) for c in message.invalid_tool_calls if c["name"]]
    if calls:
        found |= {"content": found["content"] or None, "tool_calls": calls}
    return found


def _call(identity: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments or ""}
    return {"id": identity, "type": "function", "function": function}


def _broken(message: AIMessage) -> str:
    """The text of calls that name no tool: a client shall see it."""
    return "".join(c["args"] or "" for c in message.invalid_tool_calls if not c["name"])


def _finish_reason(message: AIMessage) -> str:
    named = message.tool_calls or any(c["name"] for c in message.invalid_tool_calls)
    return "tool_calls" if named else _reason(message.response_metadata)


def _reason(metadata: Mapping[str, Any]) -> str:
    return "stop" if metadata["finish_reason"] == "stop" else "length"


def _logprobs(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    told = metadata.get("logprobs")
    if told is None:
        return None
    return {
        "content": [
            {**token, "bytes": list(token["token"].encode()), "top_logprobs": []}
            for token in told["content"]
        ],
        "refusal": None,
    }


def _figures(metadata: Mapping[str, Any]) -> dict[str, Any]:
    figures = metadata["arbitrage"]
    return {
        "steps": len(figures["steps"]),
        "escalated": sum(s["writer"] == "target" for s in figures["steps"]),
        **{name: figures[name] for name in FIGURES},
    }
