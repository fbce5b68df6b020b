"""Escape sequences in texts from a command line."""

from __future__ import annotations

import re

__all__ = ["unescape"]

_ESCAPE = re.compile(r"\\(?:[nrt\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


def unescape(text: str) -> str:
    r"""Replace `\n`, `\t`, `\r`, `\\`, `\x41` and `\u0041` by the characters they stand for.

    Example:
        >>> unescape(r"\n\n") == chr(10) * 2, unescape("à la")
        (True, 'à la')
    """
    return _ESCAPE.sub(lambda found: found[0].encode().decode("unicode_escape"), text)
