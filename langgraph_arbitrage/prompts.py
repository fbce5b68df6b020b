"""LangChain messages as the plain dicts that chat templates read."""

from __future__ import annotations

from collections.abc import Sequence
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
)

from langgraph_arbitrage.errors import MessageError

__all__ = ["check_conversation", "last_question", "template_messages"]


def check_conversation(messages: Sequence[BaseMessage]) -> None:
    """Raise `MessageError` unless there is something to answer."""
    if not messages:
        raise MessageError(
            "the conversation is empty: give at least one message, "
            'such as {"messages": [("user", "What is 2 + 3?")]}'
        )


def template_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """One dict a message: role, content and, where there are any, tool calls and names."""
    return [_template_message(m) for m in messages]


def _template_message(message: BaseMessage) -> dict[str, Any]:
    text = _text(message)
    match message:
        case SystemMessage():
            return {"role": "system", "content": text}
        case HumanMessage():
            return {"role": "user", "content": text}
        case AIMessage(tool_calls=[_, *_]):
            calls = [
                {
                    "type": "function",
                    "id": call["id"],
                    "function": {"name": call["name"], "arguments": call["args"]},
                }
                for call in message.tool_calls
            ]
            return {"role": "assistant", "content": text, "tool_calls": calls}
        case AIMessage():
            return {"role": "assistant", "content": text}
        case ToolMessage():
            return {
                "role": "tool",
                "content": text,
                "name": message.name,
                "tool_call_id": message.tool_call_id,
            }
        case ChatMessage():
            return {"role": message.role, "content": text}
        case _:
            kind = type(message).__name__
            known = "system, human, AI, tool and chat messages"
            if isinstance(message, FunctionMessage | RemoveMessage):
                raise MessageError(f"a {kind} cannot be answered; {known} can")
            raise MessageError(f"a message of type {kind} is not known; {known} are")


def _text(message: BaseMessage) -> str:
    """The text of a message; every part must be text."""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        kind = "text" if isinstance(part, str) else part.get("type")
        if kind not in ("text", "tool_use", "tool_result", "thinking", "reasoning"):
            raise MessageError(
                f"content of type {kind!r} cannot be read: the models here read text alone. "
                "Remove that part of the message."
            )
    return message.text


def last_question(messages: Sequence[BaseMessage]) -> str:
    """Text of the last human message, or of the last message where there is none."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return message.text
    return messages[-1].text
