r"""An exact checker, which checks the calculations of a step and ignores its wording.

A step is parsed as a list of equations. Each equation has one operation on two numbers, optional
intermediate terms, and a result. A step is right if all members of each equation have the same
value and each equation is a calculation of the problem that no right earlier step has done. The
steps may come in any order, and so may the operands of a sum or a product. A boxed number must be
the final answer. All other steps are wrong, for example a step without a calculation, a repeated
calculation, or a step after the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from langgraph_arbitrage.embedded.problems import Calculation, Problem, evaluate

_SPELLINGS = (
    (r"(?m)^\s*[-*•] ", ""),  # a list marker
    (r"\\times|\\cdot|×|·|\btimes\b|\bmultiplied by\b|(?<=\d)\s*[xX]\s*(?=\d)", " * "),
    (r"\\div|÷|\bdivided by\b|(?<=\d)\s*:\s*(?=\d)", " / "),
    (r"−|–|\bminus\b", " - "),
    (r"\bplus\b", " + "),
    (r"\\%|\\pmod|\bmod(?:ulo)?\b", " % "),
    (r"\bequals\b|\bis equal to\b", " = "),
    (r"(?<=\d),(?=\d{3}\b)|\\?\$|\\[(),;!\[\]]", ""),
    (r"(?<=\d)\.0+(?!\d)", ""),
    # A unit between a number and an operator: "3 dollars * 12 = 36 dollars".
    (r"(?<=\d) [A-Za-z]+(?= *[-+*/%=] )", ""),
)
_SUBSTITUTIONS = [(re.compile(pattern), replacement) for pattern, replacement in _SPELLINGS]
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_MEMBER = r"\d+(?: *[-+*/%] *\d+)*"
_EQUATION = re.compile(
    rf"(?<![\d.])(?<![-+*/%])(?<![-+*/%] ){_MEMBER}(?: *= *{_MEMBER})+(?! *[-+*/%=]? *\d)(?!\.\d)"
)
_SIGN = re.compile(r"[-+*/%=] *\d|\d *[-+*/%=]")
_COMMUTATIVE = "+*"


@dataclass(frozen=True)
class ParsedStep:
    """The calculations and the boxed number of a step."""

    calculations: tuple[Calculation, ...]
    boxed: int | None
    """The boxed number; None if the step has no box."""


def parse_step(step: str) -> ParsedStep | None:
    """Parse a step; returns ``None`` if an equation is false or cannot be parsed.

    Example:
        >>> parse_step("Now she has 34 + 58 = 84 + 8 = 92.").calculations[0].result
        92
    """
    text = step
    boxes = _BOXED.findall(text)
    text = _BOXED.sub(" ", text)
    for pattern, replacement in _SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
        boxes = [pattern.sub(replacement, box).strip() for box in boxes]
    if len(boxes) > 1 or any(not box.isdecimal() for box in boxes):
        return None
    calculations = []
    for equation in _EQUATION.findall(text):
        first, *rest = (member.strip() for member in equation.split("="))
        operation = re.fullmatch(r"(\d+) *([-+*/%]) *(\d+)", first)
        if operation is None or not rest[-1].isdecimal():
            return None
        result = int(rest[-1])
        if any(_value(member) != result for member in (first, *rest)):
            return None
        left, op, right = operation.groups()
        calculations.append(Calculation(op, int(left), int(right), result))
    if _SIGN.search(_EQUATION.sub(" ", text)):
        return None  # an incomplete equation, or a stray operator
    return ParsedStep(tuple(calculations), int(boxes[0]) if boxes else None)


def check_step(problem: Problem, previous_steps: Sequence[str], step: str) -> bool:
    """Check whether a step is right in its context.

    Args:
        problem: The problem to solve.
        previous_steps: The steps before this step. Wrong ones are ignored.
        step: The step to check.

    Returns:
        True if the step does at least one remaining calculation of the problem, makes no mistake,
        and boxes no number other than the final answer. Also true if it does no calculation and
        boxes the final answer.
    """
    todo = list(problem.calculations)
    for earlier in previous_steps:
        parsed = parse_step(earlier)
        remaining = None if parsed is None else _remaining(todo, parsed)
        if parsed is None or remaining is None:
            continue
        if parsed.boxed == problem.answer:
            return False
        todo = remaining
    parsed = parse_step(step)
    if parsed is None or parsed.boxed not in (None, problem.answer):
        return False
    if not parsed.calculations and parsed.boxed is None:
        return False
    return _remaining(todo, parsed) is not None


def check_answer(problem: Problem, text: str) -> bool:
    r"""Check whether the last ``\boxed{}`` of a solution holds the right number."""
    boxes = _BOXED.findall(text)
    if not boxes:
        return False
    answer = boxes[-1].replace(",", "").replace("\\$", "").replace("$", "").strip()
    return bool(re.fullmatch(r"\d+(\.0+)?", answer)) and int(float(answer)) == problem.answer


def _remaining(todo: list[Calculation], parsed: ParsedStep) -> list[Calculation] | None:
    """Return the calculations in ``todo`` that are left after a step.

    Returns ``None`` if the step does a calculation that is not in ``todo``.
    """
    remaining = list(todo)
    for calculation in parsed.calculations:
        match = next((c for c in remaining if _same_calculation(c, calculation)), None)
        if match is None:
            return None
        remaining.remove(match)
    return remaining


def _same_calculation(a: Calculation, b: Calculation) -> bool:
    if (a.op, a.result) != (b.op, b.result):
        return False
    swapped = a.op in _COMMUTATIVE and (a.left, a.right) == (b.right, b.left)
    return swapped or (a.left, a.right) == (b.left, b.right)


def _value(member: str) -> int | None:
    """Evaluate sums and differences of products, left to right.

    Returns ``None`` for a division by zero and for an inexact division.
    """
    numbers, operators = re.findall(r"\d+", member), re.findall(r"[-+*/%]", member)
    total, term, sign = 0, int(numbers[0]), 1
    for operator, digits in zip(operators, numbers[1:], strict=True):
        number = int(digits)
        if operator in "+-":
            total, term, sign = total + sign * term, number, 1 if operator == "+" else -1
        elif operator in "/%" and (number == 0 or (operator == "/" and term % number)):
            return None
        else:
            term = evaluate(operator, term, number)
    return total + sign * term
