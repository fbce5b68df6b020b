"""Generated multi-step arithmetic word problems with deterministic solutions.

A problem is a story with a chain of small calculations. The reference solution has one paragraph
per calculation. A calculation shows one intermediate result by place value (``347 + 285 = 547 + 85
= 632``), so that models of a few hundred thousand parameters can learn the arithmetic. About a
fifth of the problems need the remainder of a division by a two-digit number, without intermediate
results, which no embedded model learns: ``Problem.hard`` marks them.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from langgraph_arbitrage.embedded._stories import STORIES, Event, Story

LEVELS = {1: (2, 3), 2: (4, 5), 3: (6, 7), 4: (8, 9)}
"""Minimum and maximum number of steps of each level."""

STEP_WEIGHTS = {2: 3, 3: 4, 4: 4, 5: 3, 6: 2, 7: 2, 8: 1, 9: 1}
"""Weight of each number of steps if no level is requested; the mean is 4.6 steps."""

HARD_SHARE = 0.2
"""Share of hard problems; see ``Problem.hard``."""

HELD_OUT_ONE_IN = 8
"""One problem in this number, chosen by hash, is held out of the training text."""

MAX_NUMBER = 999
"""Largest number in a problem."""


@dataclass(frozen=True)
class Calculation:
    """One calculation of a problem: ``left op right = result``."""

    op: str
    """``+``, ``-``, ``*``, ``/`` (exact) or ``%`` (remainder)."""
    left: int
    right: int
    result: int


@dataclass(frozen=True)
class Problem:
    """A word problem with its reference solution and the calculations to check against."""

    question: str
    answer: int
    steps: tuple[str, ...]
    """Texts of the reference steps."""
    level: int
    """Level from 1 to 4, by number of steps: see ``LEVELS``."""
    hard: bool
    """True if a step needs the remainder of a division by a two-digit number, which no embedded
    model learns."""
    calculations: tuple[Calculation, ...]
    """The calculation of each reference step, in order."""
    template: str
    """Identifier of the story and of its events, without numbers, names and things."""

    @property
    def solution(self) -> str:
        """The reference solution: the steps, separated by blank lines."""
        return "\n\n".join(self.steps)

    @property
    def held_out(self) -> bool:
        """True if the problem is held out of training.

        A SHA-256 hash of the template and all operands decides, so that a held-out calculation does
        not occur in training with another name, thing or wording.
        """
        operands = ",".join(f"{c.left}{c.op}{c.right}" for c in self.calculations)
        digest = hashlib.sha256(f"{self.template}|{operands}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def problems(n: int, seed: int = 0, level: int | None = None) -> Iterator[Problem]:
    """Generate held-out problems, none of which occurs in the training text.

    Args:
        n: Number of problems.
        seed: Seed; the same seed yields the same problems.
        level: 1 (2–3 steps), 2 (4–5), 3 (6–7) or 4 (8–9). ``None`` mixes all levels.

    Yields:
        Problems with distinct combinations of template and operands.

    Raises:
        ValueError: The level is not in ``LEVELS``.

    Example:
        >>> [p.answer == p.calculations[-1].result for p in problems(2, seed=1)]
        [True, True]
    """
    if level is not None and level not in LEVELS:
        raise ValueError(f"level is {level}; allowed: {sorted(LEVELS)} or None")
    rng = random.Random(f"held out {seed}")
    seen: set[tuple[str, tuple[Calculation, ...]]] = set()
    while len(seen) < n:
        problem = draw_problem(rng, level)
        key = (problem.template, problem.calculations)
        if problem.held_out and key not in seen:
            seen.add(key)
            yield problem


def training_problems(seed: int) -> Iterator[Problem]:
    """Generate an endless stream of problems that are not held out."""
    rng = random.Random(f"training {seed}")
    while True:
        problem = draw_problem(rng)
        if not problem.held_out:
            yield problem


def draw_problem(rng: random.Random, level: int | None = None) -> Problem:
    """Draw a random problem, which may be held out or not."""
    if level is None:
        count = rng.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))[0]
    else:
        count = rng.randint(*LEVELS[level])
    hard = rng.random() < HARD_SHARE
    while True:
        problem = _ProblemBuilder(rng, rng.choice(STORIES)).build(count, hard)
        if problem is not None:
            return problem


class _ProblemBuilder:
    """Builds one problem from a story. An attempt may fail because of the numbers drawn."""

    def __init__(self, rng: random.Random, story: Story) -> None:
        self.rng, self.story = rng, story
        self.words = story.draw_words(rng)
        self.sentences: list[str] = []
        self.steps: list[str] = []
        self.calculations: list[Calculation] = []
        self.template = [story.name]
        self.value = 0

    def build(self, count: int, hard: bool) -> Problem | None:
        """Build a problem with ``count`` steps; ``None`` if no number fits the next event."""
        total = 1 if self.story.total is not None else 0
        self.add_start()
        hard_at = self.rng.randrange(count) if hard else -1
        while len(self.steps) < count - total:
            room = count - total - len(self.steps)
            if hard and len(self.steps) >= hard_at:
                hard, event = False, self.rng.choice(self.story.events["%"])
                added = self.add_event(event)
            else:
                fitting = [o for o in self.story.events if o != "%" and len(o) <= room - hard]
                added = bool(fitting) and self.add_event(
                    self.rng.choice(self.story.events[self.rng.choice(fitting)])
                )
            if not added:
                return None
        if hard or not self.steps:
            return None
        if self.story.total is not None:
            first = self.first
            if self.value + first > MAX_NUMBER:
                return None
            self.calculate("+", first, self.value, self.story.total)
        self.sentences.append(self.story.questions[self.rng.randrange(len(self.story.questions))])
        question = " ".join(s.format(**self.words) for s in self.sentences)
        last = self.steps[-1].rstrip(".")
        steps = (*self.steps[:-1], f"{last}, so the answer is \\boxed{{{self.value}}}.")
        return Problem(
            question=question,
            answer=self.value,
            steps=steps,
            level=next(x for x, (low, high) in LEVELS.items() if low <= count <= high),
            hard=any(c.op == "%" for c in self.calculations),
            calculations=tuple(self.calculations),
            template=" ".join(self.template),
        )

    def add_start(self) -> None:
        """Add the first quantity, either a single number or a number of equal groups."""
        event = self.rng.choice(self.story.starts)
        if event.ops == "*":
            groups, size = self.rng.randint(2, 9), self.rng.randint(3, 99)
            self.add_sentence(event, groups, size)
            self.calculate("*", groups, size, event.steps[0])
        else:
            self.value = self.rng.randint(10, 399)
            self.first = self.value
            self.add_sentence(event, self.value, 0)

    def add_event(self, event: Event) -> bool:
        """Add an event with its calculations; returns False if no operand fits."""
        rng, value = self.rng, self.value
        groups, k = 0, 0
        room = MAX_NUMBER - value if event.ops[-1] == "+" else value - 2
        if event.ops in ("+", "-"):
            k = rng.randint(3, min(399, room)) if room >= 3 else 0
        elif event.ops in ("*+", "*-"):
            groups = rng.randint(2, 9)
            k = rng.randint(3, min(99, room // groups)) if room // groups >= 3 else 0
        elif event.ops == "*":
            limit = min(9, MAX_NUMBER // value) if value > 2 else 0
            k = rng.randint(2, limit) if limit >= 2 else 0
        elif event.ops == "/":
            fitting = [d for d in range(2, 10) if value % d == 0 and value // d >= 3]
            k = rng.choice(fitting) if fitting else 0
        elif event.ops == "%":
            fitting = [d for d in range(13, 60) if d % 10 and value > 3 * d and value % d >= 3]
            k = rng.choice(fitting) if fitting else 0
        if k == 0:
            return False
        self.add_sentence(event, groups or k, k)
        if groups:
            self.calculate("*", groups, k, event.steps[0], keep=True)
            self.calculate(event.ops[1], value, groups * k, event.steps[1])
        elif event.ops == "*":
            self.calculate("*", k, value, event.steps[0])
        else:
            self.calculate(event.ops, value, k, event.steps[0])
        return True

    def add_sentence(self, event: Event, b: int, k: int) -> None:
        """Append the event's sentence to the question."""
        self.sentences.append(event.sentence.replace("{b}", str(b)).replace("{k}", str(k)))
        self.template.append(event.ops or "start")

    def calculate(self, op: str, left: int, right: int, step: str, keep: bool = False) -> None:
        """Append a calculation and its step; its result is the new quantity unless ``keep``."""
        result = evaluate(op, left, right)
        self.calculations.append(Calculation(op, left, right, result))
        chain = " = ".join(
            [f"{left} {op} {right}", *intermediate_terms(op, left, right), str(result)]
        )
        self.steps.append(step.replace("{c}", chain).format(**self.words))
        self.value = self.value if keep else result


def evaluate(op: str, left: int, right: int) -> int:
    """Calculate ``left op right``; a division is floored."""
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    return left // right if op == "/" else left % right


def intermediate_terms(op: str, left: int, right: int) -> list[str]:
    """Return a list with the intermediate term between a calculation and its result, if any.

    Sums and differences first add or subtract the leading digit of the second number. Products
    are split after the leading digit of the second number. Divisions and remainders have no
    intermediate term.
    """
    if right < 10 or op in "/%":
        return []
    unit: int = 10 ** (len(str(right)) - 1)
    head, rest = right // unit * unit, right % unit
    if rest == 0:
        return []
    if op == "*":
        return [f"{left * head} + {left * rest}"]
    return [f"{evaluate(op, left, head)} {op} {rest}"]
