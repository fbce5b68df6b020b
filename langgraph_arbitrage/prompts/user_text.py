"""Special tokens in the text of users and tools: escaped, refused or allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from langgraph_arbitrage.errors import MessageError
from langgraph_arbitrage.models.special_tokens import ControlTokens

__all__ = ["SpecialTokensInText", "protect_messages", "protect_values"]

SpecialTokensInText = Literal["escape", "allow", "refuse"]

TRUSTED_ROLES = ("system", "assistant")
"""Roles whose text may contain special tokens: the developer and the model write it."""


def protect_messages(
    messages: Sequence[dict[str, Any]], tokens: ControlTokens, mode: SpecialTokensInText
) -> list[dict[str, Any]]:
    """Escape or refuse special tokens in the messages of users and tools.

    Raises:
        MessageError: The mode is "refuse", and a message contains a special token.
    """
    return [
        message
        if message["role"] in TRUSTED_ROLES
        else protect_values(message, tokens, mode, f"A message with role {message['role']!r}")
        for message in messages
    ]


def protect_values(values: Any, tokens: ControlTokens, mode: SpecialTokensInText, what: str) -> Any:
    """Escape or refuse special tokens in all texts of a nested value, names of fields included.

    Args:
        values: Texts, in lists and mappings at any depth.
        tokens: The control tokens of the model that reads the values.
        mode: What to do with special tokens.
        what: What the values are, for the error message.

    Raises:
        MessageError: The mode is "refuse", and a text contains a special token.
    """
    if mode == "allow":
        return values

    def refuse(text: str) -> str:
        if name := tokens.find(text):
            raise MessageError(
                f"{what} contains the special token {name!r}. Remove it, or set "
                'special_tokens_in_text to "escape", which reads it as ordinary text'
            )
        return text

    return _map_texts(values, tokens.escape if mode == "escape" else refuse)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_texts(key, change): _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_texts(item, change) for item in value]
    return value
