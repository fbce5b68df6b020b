"""Compare two answers with math-verify, after rules for cases that math-verify does not handle.

The comparison runs in a separate process (`worker.py`), which the parent process can kill. sympy
may evaluate an expression such as 9^(9^9) forever, in calls that neither signals nor threads can
interrupt.
"""

from __future__ import annotations

from typing import Any, Literal

from math_verify import parse, verify

from langgraph_arbitrage.evaluation.notation import (
    base_of,
    brackets_of,
    choice_of,
    normal,
    number_of,
    unit_of,
    without_unit,
    words_of,
)

__all__ = ["Kind", "equal", "kind_of"]

Kind = Literal["math", "text", "unreadable"]
"""How a reference is graded. Only an answer with the identical text could match an `unreadable`
reference, so such questions are left out of an evaluation."""


def equal(answer: str, reference: str) -> bool:
    """Return whether a final answer equals a reference.

    Args:
        answer: Final answer only, in LaTeX or plain text.
        reference: Reference answer.
    """
    a, r = normal(answer), normal(reference)
    if not a or not r:
        return False
    if a == r:
        return True
    if letter := choice_of(r):
        return letter == choice_of(f"({a})" if len(a) == 1 else a)
    x, y = number_of(a), number_of(r)
    if x is not None and y is not None and (x == y or not ("." in a) ^ ("." in r)):
        return x == y
    answer_words, reference_words = words_of(a), words_of(r)
    if answer_words is not None or reference_words is not None:
        return (answer_words or a.lower()) == (reference_words or r.lower())
    for attribute_of in (unit_of, base_of, brackets_of):
        actual, expected = attribute_of(a), attribute_of(r)
        if actual is not None and expected is not None and actual != expected:
            return False
    if a.endswith("%") != r.endswith("%"):
        return _equal_percent(a, r)
    return _verify(without_unit(a.removesuffix("%")), without_unit(r.removesuffix("%")))


def _equal_percent(a: str, r: str) -> bool:
    """Compare an answer with a reference if exactly one of them has a percent sign.

    The sign divides by 100, so 50 % equals 0.5. The sign is also ignored, so 50 % equals 50,
    because a question may ask for a number of percent. As an exception, the sign of an answer is
    not ignored if the reference is at most 1. Such a reference may be a fraction, so the answer
    0.5 % does not equal the reference 0.5.
    """
    bare, other = a.removesuffix("%"), r.removesuffix("%")
    fraction = f"\\frac{{{bare}}}{{100}}", other
    if r.endswith("%"):
        fraction = bare, f"\\frac{{{other}}}{{100}}"
        return _verify(bare, other) or _verify(*fraction)
    value = number_of(r)
    ignore_sign = value is not None and abs(value) > 1
    return _verify(*fraction) or (ignore_sign and _verify(bare, other))


def _verify(a: str, r: str) -> bool:
    actual, expected = _parse(a), _parse(r)
    # No timeout here: the parent process enforces the time limit by killing this process.
    return bool(verify(expected, actual, allow_set_relation_comp=True, timeout_seconds=None))


def _parse(text: str) -> list[Any]:
    parsed: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None)
    return parsed


def kind_of(reference: str) -> Kind:
    """Return how a reference is graded."""
    r = normal(reference)
    if choice_of(r) or words_of(r):
        return "text"
    if not r:
        return "unreadable"
    if number_of(r) is not None:
        return "math"
    parsed = _parse(r.removesuffix("%"))
    expressions = [item for item in parsed if not isinstance(item, str)]
    return "math" if expressions and _verify(r, r) else "unreadable"
