r"""The final answer of a text: what stands in its last `\boxed{}`, else its last number."""

from __future__ import annotations

import re

from langgraph_arbitrage.boxed import last_boxed

__all__ = ["final_answer", "right_answer"]

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
