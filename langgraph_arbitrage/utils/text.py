"""Checks of texts."""

from __future__ import annotations

__all__ = ["is_valid_text"]


def is_valid_text(text: str) -> bool:
    """False if a text contains half of a surrogate pair, as truncated JSON escapes do.

    Example:
        >>> is_valid_text("Ann"), is_valid_text(chr(0xD83D))
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
