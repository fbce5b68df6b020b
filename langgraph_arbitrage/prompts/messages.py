"""Convert LangChain messages to the message dicts that chat templates expect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from langgraph_arbitrage.errors import MessageError

__all__ = ["check_conversation", "last_question", "read_messages", "template_messages"]


def check_conversation(messages: Sequence[BaseMessage]) -> None:
    """Raise `MessageError` if the conversation has no messages or only empty ones."""
    if not messages:
        raise MessageError(
            "the conversation has no messages. Pass at least one message, "
            'such as {"messages": [("user", "What is 2 + 3?")]}'
        )
    plain = template_messages(messages)
    if not any(m["content"].strip() or m.get("tool_calls") for m in plain):
        raise MessageError(
            f"all {len(messages)} messages of the conversation are empty. Pass at least one "
            "message with text"
        )


def read_messages(messages: Sequence[Any]) -> list[BaseMessage]:
    """Convert messages from any format that LangChain supports, such as parsed JSON.

    Raises:
        MessageError: A message is malformed.
    """
    # OpenAI's clients omit the content of messages with tool calls.
    complete = [
        {"content": "", **m} if isinstance(m, dict) and "role" in m else m for m in messages
    ]
    try:
        return list(convert_to_messages(complete))
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        missing = " is missing" if isinstance(error, KeyError) else ""
        raise MessageError(f"invalid messages: {error}{missing}") from None


def template_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Convert messages to dicts with role, content and, if present, name, tool calls and thinking.

    A human message with tool results, as in Anthropic's format, becomes one message per result.

    Raises:
        MessageError: A message has an unsupported type or non-text content.
    """
    converted = [plain for message in messages for plain in _plain(message)]
    names: dict[str, str] = {}
    for plain in converted:
        for call in plain.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if plain["role"] == "tool" and plain["tool_call_id"] in names:
            plain.setdefault("name", names[plain["tool_call_id"]])
    return converted


def _plain(message: BaseMessage) -> Iterator[dict[str, Any]]:
    """Yield the dicts of one message."""
    parts = _parts(message)
    text = parts.text
    name = {"name": message.name} if message.name else {}
    match message:
        case SystemMessage():
            yield {"role": "system", "content": text, **name}
        case HumanMessage():
            yield from parts.results
            if text or not parts.results:
                yield {"role": "user", "content": text, **name}
        case AIMessage():
            yield _assistant(message, parts) | name
        case ToolMessage():
            result = _result(message.tool_call_id, text)
            yield result | name
        case FunctionMessage():
            yield _result(message.name, text) | name
        case ChatMessage():
            role = {"human": "user", "ai": "assistant", "developer": "system"}
            yield {"role": role.get(message.role, message.role), "content": text, **name}
        case _:
            kind = type(message).__name__
            supported = "system, human, AI, tool, function and chat messages"
            if isinstance(message, RemoveMessage):
                raise MessageError(f"a {kind} cannot be part of a prompt. Supported: {supported}")
            raise MessageError(f"unsupported message type {kind}. Supported: {supported}")


def _assistant(message: AIMessage, parts: _Parts) -> dict[str, Any]:
    calls = [(c["id"], c["name"], c["args"]) for c in message.tool_calls] or parts.calls
    plain: dict[str, Any] = {"role": "assistant", "content": parts.text}
    # Invalid tool calls stay in the text, so that the model can see and correct them.
    invalid = [c["args"] for c in message.invalid_tool_calls if c.get("args")]
    if invalid:
        plain["content"] = "\n".join([t for t in (parts.text, *invalid) if t])
    thinking = parts.thinking or message.additional_kwargs.get("reasoning_content")
    if isinstance(thinking, str) and thinking:
        plain["reasoning_content"] = thinking
    if calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "id": _short_id(call_id),
                "function": {"name": name, "arguments": args},
            }
            for call_id, name, args in calls
        ]
    return plain


def _result(call_id: str | None, text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": _short_id(call_id)}


def _short_id(call_id: str | None) -> str:
    """Return a call id of nine letters and digits; some templates reject other ids."""
    if call_id and len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.blake2b(str(call_id).encode(), digest_size=8).hexdigest()[:9]


# --- content -----------------------------------------------------------------------------


@dataclass
class _Parts:
    """The content of a message, by kind."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str | None, str, dict[str, Any]]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def _parts(message: BaseMessage) -> _Parts:
    """Split the content: a string, strings, or OpenAI, Anthropic or standard content blocks."""
    parts = _Parts()
    content = message.content if isinstance(message.content, list) else [message.content]
    for part in content:
        if isinstance(part, str):
            parts.text += part
            continue
        kind = part.get("type")
        if kind in ("text", "text-plain", "refusal"):
            parts.text += str(part.get("text") or part.get("refusal") or "")
        elif kind in ("thinking", "reasoning"):
            parts.thinking += str(part.get("thinking") or part.get("reasoning") or "")
        elif kind in ("tool_use", "tool_call"):
            args = part.get("input", part.get("args"))
            args = args if isinstance(args, dict) else {}
            parts.calls.append((part.get("id"), str(part.get("name")), args))
        elif kind == "tool_result":
            inner = part.get("content") or ""
            result = _parts(HumanMessage(content=inner)).text
            parts.results.append(_result(part.get("tool_use_id"), result))
        elif kind in ("redacted_thinking", "tool_call_chunk", "invalid_tool_call"):
            pass  # encrypted, or also in the message's fields
        else:
            raise MessageError(
                f"content of type {kind!r} is not supported: the models read text only. "
                "Remove this part of the message"
            )
    return parts


def last_question(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the last human message, or of the last message if there is none."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return message.text
    return messages[-1].text
