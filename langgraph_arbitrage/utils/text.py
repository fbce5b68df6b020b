"""Checks that text can be encoded as UTF-8."""

from __future__ import annotations

__all__ = ["is_valid_text"]


def is_valid_text(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8.

    Half of a surrogate pair, such as a truncated JSON escape, cannot be encoded.

    Example:
        >>> is_valid_text("Ann"), is_valid_text(chr(0xD83D))
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
