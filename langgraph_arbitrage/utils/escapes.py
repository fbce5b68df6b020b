"""Replaces escape sequences in command-line arguments."""

from __future__ import annotations

import re

__all__ = ["unescape"]

_ESCAPE = re.compile(r"\\(?:[nrt\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


def unescape(text: str) -> str:
    r"""Replace the escapes `\n`, `\t`, `\r`, `\\`, `\xHH` and `\uHHHH` with their characters.

    Example:
        >>> unescape(r"\n\n") == chr(10) * 2, unescape("à la")
        (True, 'à la')
    """
    return _ESCAPE.sub(lambda match: match[0].encode().decode("unicode_escape"), text)
