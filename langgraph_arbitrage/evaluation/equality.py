"""Whether two answers are the same: what math-verify says, after rules for what it does not see.

This runs in a process of its own (`worker.py`): an expression such as 9^(9^9) keeps sympy busy
for ever, inside of calls that no signal and no thread can end.
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
"""What a reference is graded as; an unreadable one would only ever equal its own text."""


def equal(answer: str, reference: str) -> bool:
    """Whether a final answer equals a reference.

    Args:
        answer: The final answer alone, in LaTeX or plain.
        reference: The right one.
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
    said, wanted = words_of(a), words_of(r)
    if said is not None or wanted is not None:
        return (said or a.lower()) == (wanted or r.lower())
    for mark in (unit_of, base_of, brackets_of):
        mine, theirs = mark(a), mark(r)
        if mine is not None and theirs is not None and mine != theirs:
            return False
    if a.endswith("%") != r.endswith("%"):
        return _equal_percent(a, r)
    return _verified(without_unit(a.removesuffix("%")), without_unit(r.removesuffix("%")))


def _equal_percent(a: str, r: str) -> bool:
    """50 % is 0.5, and it is 50 where percents were asked for; 0.5 % is not 0.5.

    A bare reference of at most 1 may be a share, so there the sign is not left out.
    """
    bare, other = a.removesuffix("%"), r.removesuffix("%")
    share = f"\\frac{{{bare}}}{{100}}", other
    if r.endswith("%"):
        share = bare, f"\\frac{{{other}}}{{100}}"
        return _verified(bare, other) or _verified(*share)
    wanted = number_of(r)
    as_is = wanted is not None and abs(wanted) > 1
    return _verified(*share) or (as_is and _verified(bare, other))


def _verified(a: str, r: str) -> bool:
    found, wanted = _parsed(a), _parsed(r)
    # The limit is the caller's: it ends the process.
    return bool(verify(wanted, found, allow_set_relation_comp=True, timeout_seconds=None))


def _parsed(text: str) -> list[Any]:
    found: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None)
    return found


def kind_of(reference: str) -> Kind:
    """What a reference is graded as: mathematics, words, or nothing that can be read."""
    r = normal(reference)
    if choice_of(r) or words_of(r):
        return "text"
    if not r:
        return "unreadable"
    if number_of(r) is not None:
        return "math"
    found = _parsed(r.removesuffix("%"))
    expressions = [one for one in found if not isinstance(one, str)]
    return "math" if expressions and _verified(r, r) else "unreadable"
