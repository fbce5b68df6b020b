"""LangChain messages as the plain dicts that chat templates read."""

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
    """Raise `MessageError` unless there is something to answer."""
    if not messages:
        raise MessageError(
            "the conversation is empty: give at least one message, "
            'such as {"messages": [("user", "What is 2 + 3?")]}'
        )
    plain = template_messages(messages)
    if not any(m["content"].strip() or m.get("tool_calls") for m in plain):
        raise MessageError(
            f"the conversation says nothing: its {len(messages)} messages are empty. Give at least "
            "one with text"
        )


def read_messages(given: Sequence[Any]) -> list[BaseMessage]:
    """Messages from plain dicts, as JSON has them, in any form that LangChain knows.

    Raises:
        MessageError: They are none.
    """
    # OpenAI's own clients leave the content out where there are calls.
    whole = [{"content": "", **m} if isinstance(m, dict) and "role" in m else m for m in given]
    try:
        return list(convert_to_messages(whole))
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        missing = " is missing" if isinstance(error, KeyError) else ""
        raise MessageError(f"its messages cannot be read: {error}{missing}") from None


def template_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Plain dicts with role and content and, where there are any, tool calls, names and thinking.

    A human message that holds tool results, as Anthropic's do, becomes one message a result.

    Raises:
        MessageError: A message holds what no text model reads.
    """
    found = [plain for message in messages for plain in _plain(message)]
    names: dict[str, str] = {}
    for plain in found:
        for call in plain.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if plain["role"] == "tool" and plain["tool_call_id"] in names:
            plain.setdefault("name", names[plain["tool_call_id"]])
    return found


def _plain(message: BaseMessage) -> Iterator[dict[str, Any]]:
    parts = _parts(message)
    text = parts.text
    named = {"name": message.name} if message.name else {}
    match message:
        case SystemMessage():
            yield {"role": "system", "content": text, **named}
        case HumanMessage():
            yield from parts.results
            if text or not parts.results:
                yield {"role": "user", "content": text, **named}
        case AIMessage():
            yield _assistant(message, parts) | named
        case ToolMessage():
            result = _result(message.tool_call_id, text)
            yield result | named
        case FunctionMessage():
            yield _result(message.name, text) | named
        case ChatMessage():
            role = {"human": "user", "ai": "assistant", "developer": "system"}
            yield {"role": role.get(message.role, message.role), "content": text, **named}
        case _:
            kind = type(message).__name__
            known = "system, human, AI, tool, function and chat messages"
            if isinstance(message, RemoveMessage):
                raise MessageError(f"a {kind} cannot be answered; {known} can")
            raise MessageError(f"a message of type {kind} is not known; {known} are")


def _assistant(message: AIMessage, parts: _Parts) -> dict[str, Any]:
    calls = [(c["id"], c["name"], c["args"]) for c in message.tool_calls] or parts.calls
    plain: dict[str, Any] = {"role": "assistant", "content": parts.text}
    # What was no call is shown as it was written, so that the model can read what went wrong.
    broken = [c["args"] for c in message.invalid_tool_calls if c.get("args")]
    if broken:
        plain["content"] = "\n".join([t for t in (parts.text, *broken) if t])
    thought = parts.thought or message.additional_kwargs.get("reasoning_content")
    if isinstance(thought, str) and thought:
        plain["reasoning_content"] = thought
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
    """Nine letters and digits: some templates refuse other ids of calls."""
    if call_id and len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.blake2b(str(call_id).encode(), digest_size=8).hexdigest()[:9]


# --- content -----------------------------------------------------------------------------


@dataclass
class _Parts:
    """What the content of a message holds."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str | None, str, dict[str, Any]]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def _parts(message: BaseMessage) -> _Parts:
    """Content of any of the usual kinds: a text, texts, OpenAI's, Anthropic's, standard blocks."""
    found = _Parts()
    content = message.content if isinstance(message.content, list) else [message.content]
    for part in content:
        if isinstance(part, str):
            found.text += part
            continue
        kind = part.get("type")
        if kind in ("text", "text-plain", "refusal"):
            found.text += str(part.get("text") or part.get("refusal") or "")
        elif kind in ("thinking", "reasoning"):
            found.thought += str(part.get("thinking") or part.get("reasoning") or "")
        elif kind in ("tool_use", "tool_call"):
            args = part.get("input", part.get("args"))
            args = args if isinstance(args, dict) else {}
            found.calls.append((part.get("id"), str(part.get("name")), args))
        elif kind == "tool_result":
            inner = part.get("content") or ""
            result = _parts(HumanMessage(content=inner)).text
            found.results.append(_result(part.get("tool_use_id"), result))
        elif kind in ("redacted_thinking", "tool_call_chunk", "invalid_tool_call"):
            pass  # unreadable, or in the message's own fields
        else:
            raise MessageError(
                f"content of type {kind!r} cannot be read: the models here read text alone. "
                "Remove that part of the message."
            )
    return found


def last_question(messages: Sequence[BaseMessage]) -> str:
    """Text of the last human message, or of the last message where there is none."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return message.text
    return messages[-1].text
