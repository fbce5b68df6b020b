r"""An exact checker: judges a step in its context by what it calculates, not by its wording.

A step is read as a list of equations, each of one operation on two numbers, any line of scratch,
and a result. It is right where every part of every equation has the same value, and each equation
is a calculation of the problem that no right step before it has done. The order of the steps is
free, and so is the order of the numbers in a sum or a product. A boxed number has to be the final
answer. Anything else is wrong: a step that calculates nothing, one that repeats a calculation, and
one that goes on after the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from langgraph_arbitrage.embedded.problems import Calculation, Problem, evaluate

_SPELLINGS = (
    (r"(?m)^\s*[-*•] ", ""),  # a list's mark
    (r"\\times|\\cdot|×|·|\btimes\b|\bmultiplied by\b|(?<=\d)\s*[xX]\s*(?=\d)", " * "),
    (r"\\div|÷|\bdivided by\b|(?<=\d)\s*:\s*(?=\d)", " / "),
    (r"−|–|\bminus\b", " - "),
    (r"\bplus\b", " + "),
    (r"\\%|\\pmod|\bmod(?:ulo)?\b", " % "),
    (r"\bequals\b|\bis equal to\b", " = "),
    (r"(?<=\d),(?=\d{3}\b)|\\?\$|\\[(),;!\[\]]", ""),
    (r"(?<=\d)\.0+(?!\d)", ""),
    # A unit between a number and a sign: "3 dollars * 12 = 36 dollars".
    (r"(?<=\d) [A-Za-z]+(?= *[-+*/%=] )", ""),
)
_SPELLINGS_COMPILED = [(re.compile(pattern), put) for pattern, put in _SPELLINGS]
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_MEMBER = r"\d+(?: *[-+*/%] *\d+)*"
_EQUATION = re.compile(
    rf"(?<![\d.])(?<![-+*/%])(?<![-+*/%] ){_MEMBER}(?: *= *{_MEMBER})+(?! *[-+*/%=]? *\d)(?!\.\d)"
)
_SIGN = re.compile(r"[-+*/%=] *\d|\d *[-+*/%=]")
_COMMUTATIVE = "+*"


@dataclass(frozen=True)
class Reading:
    """What a step says."""

    calculations: tuple[Calculation, ...]
    boxed: int | None
    """The boxed number, if there is one."""


def read_step(step: str) -> Reading | None:
    """Read a step; ``None`` where it says something false or that cannot be read.

    Example:
        >>> read_step("Now she has 34 + 58 = 84 + 8 = 92.").calculations[0].result
        92
    """
    text = step
    boxes = _BOXED.findall(text)
    text = _BOXED.sub(" ", text)
    for pattern, put in _SPELLINGS_COMPILED:
        text = pattern.sub(put, text)
        boxes = [pattern.sub(put, box).strip() for box in boxes]
    if len(boxes) > 1 or any(not box.isdecimal() for box in boxes):
        return None
    calculations = []
    for equation in _EQUATION.findall(text):
        first, *others = (member.strip() for member in equation.split("="))
        parts = re.fullmatch(r"(\d+) *([-+*/%]) *(\d+)", first)
        if parts is None or not others[-1].isdecimal():
            return None
        result = int(others[-1])
        if any(_value(member) != result for member in (first, *others)):
            return None
        calculations.append(Calculation(parts[2], int(parts[1]), int(parts[3]), result))
    if _SIGN.search(_EQUATION.sub(" ", text)):
        return None  # a half equation, or a sign that belongs to none
    return Reading(tuple(calculations), int(boxes[0]) if boxes else None)


def check_step(problem: Problem, previous_steps: Sequence[str], step: str) -> bool:
    """Judge whether a step is right in its context.

    Args:
        problem: The problem that is being solved.
        previous_steps: The steps before, right or wrong; the wrong ones count as not done.
        step: The step to judge.

    Returns:
        Whether the step does one or more calculations of the problem that are still to do, all
        of them rightly, and boxes nothing but the final answer; or, where it calculates nothing,
        boxes the final answer.
    """
    todo = list(problem.calculations)
    for earlier in previous_steps:
        reading = read_step(earlier)
        left = None if reading is None else _without(todo, reading)
        if reading is None or left is None:
            continue
        if reading.boxed == problem.answer:
            return False
        todo = left
    reading = read_step(step)
    if reading is None or reading.boxed not in (None, problem.answer):
        return False
    if not reading.calculations and reading.boxed is None:
        return False
    return _without(todo, reading) is not None


def check_answer(problem: Problem, text: str) -> bool:
    r"""Judge whether the last ``\boxed{}`` of a solution holds the right number."""
    boxes = _BOXED.findall(text)
    if not boxes:
        return False
    answer = boxes[-1].replace(",", "").replace("\\$", "").replace("$", "").strip()
    return bool(re.fullmatch(r"\d+(\.0+)?", answer)) and int(float(answer)) == problem.answer


def _without(todo: list[Calculation], reading: Reading) -> list[Calculation] | None:
    """Return what is left to do after a step; ``None`` where it does what is not to be done."""
    left = list(todo)
    for said in reading.calculations:
        same = next((c for c in left if _same(c, said)), None)
        if same is None:
            return None
        left.remove(same)
    return left


def _same(one: Calculation, other: Calculation) -> bool:
    if (one.op, one.result) != (other.op, other.result):
        return False
    operands = (one.left, one.right)
    turned = one.op in _COMMUTATIVE and operands == (other.right, other.left)
    return turned or operands == (other.left, other.right)


def _value(member: str) -> int | None:
    """Evaluate sums and differences of products from left to right."""
    numbers, signs = re.findall(r"\d+", member), re.findall(r"[-+*/%]", member)
    terms, term, sign = 0, int(numbers[0]), 1
    for operator, digits in zip(signs, numbers[1:], strict=True):
        number = int(digits)
        if operator in "+-":
            terms, term, sign = terms + sign * term, number, 1 if operator == "+" else -1
        elif operator in "/%" and (number == 0 or (operator == "/" and term % number)):
            return None
        else:
            term = evaluate(operator, term, number)
    return terms + sign * term
