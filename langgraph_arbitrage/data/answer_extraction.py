r"""Extracts the final answer of a text: the last `\boxed{}`, or else the last number."""

from __future__ import annotations

import re

__all__ = ["final_answer", "last_boxed", "reference_answer"]

_OPENING = r"\boxed{"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str:
    r"""Return the content of the last `\boxed{}`, else the last number, else the text; normalized.

    Example:
        >>> final_answer("So 2 + 3 = 5."), final_answer(r"Thus \boxed{1,200.0}"), final_answer("No")
        ('5', '1200', 'No')
        >>> final_answer("1234567") == final_answer("1,234,567.0") != final_answer("1234568")
        True
    """
    answer = last_boxed(text)
    if answer is None and (numbers := _NUMBER.findall(text)):
        answer = numbers[-1]
    return _normalize(text if answer is None else answer)


def reference_answer(answer: str) -> str:
    r"""Return the final answer of a dataset's reference: in `\boxed{}`, after `####`, or all of it.

    The result is normalized like that of `final_answer`.

    Example:
        >>> reference_answer("3 + 4 = 7 #### 7"), reference_answer(r"So \boxed{7}.")
        ('7', '7')
    """
    boxed = last_boxed(answer)
    return _normalize(answer.rpartition("####")[2] if boxed is None else boxed)


def _normalize(text: str) -> str:
    """Remove spaces, `$` and thousands separators, and write numbers in a canonical form."""
    text = re.sub(r"[\s$,]|\\[,;! ]", "", text).rstrip(".")
    try:
        return format(float(text), ".15g")
    except ValueError:
        return text


def last_boxed(text: str, *, unclosed: bool = True) -> str | None:
    r"""Return the content of the last `\boxed{}`, with nested braces; None if there is none.

    Args:
        text: The text.
        unclosed: If the last box is never closed, return the rest of the text. Otherwise return
            None.

    Example:
        >>> last_boxed(r"\boxed{1} or rather \boxed{\frac{1}{2}}."), last_boxed("1")
        ('\\frac{1}{2}', None)
    """
    start = text.rfind(_OPENING)
    if start < 0:
        return None
    start += len(_OPENING)
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:] if unclosed else None
