"""Small texts: what may go to a terminal, what an answer comes down to."""

from __future__ import annotations

import re

from langgraph_arbitrage.data.answer_extraction import last_boxed

__all__ = ["final_answer", "printable"]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    r"""`text` without characters that steer a terminal: a model may write any.

    Example:
        >>> printable("a\x1b[2Jb")
        'a�[2Jb'
    """
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def final_answer(text: str) -> str:
    r"""What stands in the last `\boxed{}`, else the last line.

    Example:
        >>> final_answer(r"So 3 + 4 = 7.\boxed{7}"), final_answer("Well.\n\nSeven.")
        ('7', 'Seven.')
    """
    boxed = last_boxed(text, torn=False)
    if boxed is not None:
        return boxed.strip()
    return next((line for line in reversed(text.split("\n")) if line.strip()), "").strip()
