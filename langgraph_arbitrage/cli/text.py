"""Prepares texts for the terminal."""

from __future__ import annotations

import re

from langgraph_arbitrage.data.answer_extraction import last_boxed

__all__ = ["printable", "short_answer"]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    r"""Replace control characters, because a model's text must not control the terminal.

    Tabs and newlines are kept.

    Example:
        >>> printable("a\x1b[2Jb")
        'a�[2Jb'
    """
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def short_answer(text: str) -> str:
    r"""Return the content of the last `\boxed{}`, or else the last line that is not blank.

    Example:
        >>> short_answer(r"So 3 + 4 = 7.\boxed{7}"), short_answer("Well.\n\nSeven.")
        ('7', 'Seven.')
    """
    boxed = last_boxed(text, unclosed=False)
    if boxed is not None:
        return boxed.strip()
    return next((line for line in reversed(text.split("\n")) if line.strip()), "").strip()
