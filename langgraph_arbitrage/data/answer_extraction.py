r"""The final answer of a text: what stands in its last `\boxed{}`, else its last number."""

from __future__ import annotations

import re

__all__ = ["final_answer", "last_boxed", "right_answer"]


_OPENING = r"\boxed{"


_LAST_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str:
    r"""What stands in the last `\boxed{}`, else the last number, else the text, normalised.

    Example:
        >>> final_answer("So 2 + 3 = 5."), final_answer(r"Thus \boxed{1,200.0}"), final_answer("No")
        ('5', '1200', 'No')
        >>> final_answer("1234567") == final_answer("1,234,567.0") != final_answer("1234568")
        True
    """
    boxed = last_boxed(text)
    if boxed is None and (numbers := _LAST_NUMBER.findall(text)):
        boxed = numbers[-1]
    return _normal(text if boxed is None else boxed)


def right_answer(answer: str) -> str:
    r"""A right answer as data sets give it: alone, in a `\boxed{}`, or after `####`."""
    boxed = last_boxed(answer)
    return _normal(answer.rpartition("####")[2] if boxed is None else boxed)


def _normal(text: str) -> str:
    text = re.sub(r"[\s$,]|\\[,;! ]", "", text).rstrip(".")
    try:
        return format(float(text), ".15g")
    except ValueError:
        return text


def last_boxed(text: str, *, torn: bool = True) -> str | None:
    r"""What stands in the last `\boxed{}` of a text, braces inside of it counted; None without one.

    Args:
        text: The text.
        torn: Whether a box that is never closed counts, up to the end of the text.

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
    return text[start:] if torn else None
