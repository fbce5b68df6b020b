"""Generated multi-step arithmetic word problems with deterministic solutions.

A problem is a chain of small calculations told as a story. Its reference solution writes one
paragraph a calculation; a calculation shows one line of place-value scratch (``347 + 285 = 547 +
85 = 632``), which is what lets models of a few hundred thousand parameters learn the arithmetic.
About a fifth of the problems hold the remainder of a division by a two-digit number, written
without scratch, which none of the embedded models learns: ``Problem.hard`` marks them.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from langgraph_arbitrage.embedded._stories import STORIES, Event, Story

LEVELS = {1: (2, 3), 2: (4, 5), 3: (6, 7), 4: (8, 9)}
"""Level to the smallest and largest number of steps."""

STEP_WEIGHTS = {2: 3, 3: 4, 4: 4, 5: 3, 6: 2, 7: 2, 8: 1, 9: 1}
"""How often each number of steps is drawn where no level is asked for (4.6 on average)."""

HARD_SHARE = 0.2
"""Share of problems with a step that no embedded model learns."""

HELD_OUT_ONE_IN = 8
"""One in so many problems, chosen by hash, never occurs in the training text."""

LARGEST = 999
"""No number of a problem is larger."""


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
    """A word problem, its reference solution and what the checker compares with."""

    question: str
    answer: int
    steps: tuple[str, ...]
    """Reference step texts; joined by a blank line they are the solution."""
    level: int
    """1 to 4, by number of steps: see ``LEVELS``."""
    hard: bool
    """Whether a step is of the kind that no embedded model learns."""
    calculations: tuple[Calculation, ...]
    """What each reference step calculates, in order."""
    template: str
    """Story and events without numbers, names and things."""

    @property
    def solution(self) -> str:
        """The reference solution: the steps, a blank line between them."""
        return "\n\n".join(self.steps)

    @property
    def held_out(self) -> bool:
        """Whether the problem is kept out of training.

        Decided by SHA-256 over the template and all operands, so that a held-out calculation
        does not come back in training under another name, thing or wording.
        """
        operands = ",".join(f"{c.left}{c.op}{c.right}" for c in self.calculations)
        digest = hashlib.sha256(f"{self.template}|{operands}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def problems(n: int, seed: int = 0, level: int | None = None) -> Iterator[Problem]:
    """Iterate over held-out problems, none of which occurs in the training text.

    Args:
        n: How many.
        seed: The same seed gives the same problems.
        level: 1 (2–3 steps), 2 (4–5), 3 (6–7) or 4 (8–9); ``None`` mixes them.

    Yields:
        Problems, no two with the same template and operands.

    Example:
        >>> [p.answer == p.calculations[-1].result for p in problems(2, seed=1)]
        [True, True]
    """
    if level is not None and level not in LEVELS:
        raise ValueError(f"level is {level}; allowed: {sorted(LEVELS)} or None")
    rng = random.Random(f"held out {seed}")
    seen: set[tuple[str, tuple[Calculation, ...]]] = set()
    while len(seen) < n:
        problem = draw(rng, level)
        key = (problem.template, problem.calculations)
        if problem.held_out and key not in seen:
            seen.add(key)
            yield problem


def training_problems(seed: int) -> Iterator[Problem]:
    """Iterate without end over problems that are not held out."""
    rng = random.Random(f"training {seed}")
    while True:
        problem = draw(rng)
        if not problem.held_out:
            yield problem


def draw(rng: random.Random, level: int | None = None) -> Problem:
    """Draw one problem, held out or not."""
    if level is None:
        count = rng.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))[0]
    else:
        count = rng.randint(*LEVELS[level])
    hard = rng.random() < HARD_SHARE
    while True:
        problem = _Telling(rng, rng.choice(STORIES)).tell(count, hard)
        if problem is not None:
            return problem


class _Telling:
    """One attempt to tell a story of a given number of steps."""

    def __init__(self, rng: random.Random, story: Story) -> None:
        self.rng, self.story = rng, story
        self.words = story.words(rng)
        self.sentences: list[str] = []
        self.steps: list[str] = []
        self.calculations: list[Calculation] = []
        self.template = [story.name]
        self.value = 0

    def tell(self, count: int, hard: bool) -> Problem | None:
        """Tell it, or return ``None`` where the numbers drawn lead into a dead end."""
        total = 1 if self.story.total is not None else 0
        self.begin()
        hard_at = self.rng.randrange(count) if hard else -1
        while len(self.steps) < count - total:
            room = count - total - len(self.steps)
            due = hard and len(self.steps) >= hard_at
            if due:
                hard, event = False, self.rng.choice(self.story.events["%"])
                drawn = self.add(event)
            else:
                fitting = [o for o in self.story.events if o != "%" and len(o) <= room - hard]
                drawn = bool(fitting) and self.add(
                    self.rng.choice(self.story.events[self.rng.choice(fitting)])
                )
            if not drawn:
                return None
        if hard or not self.steps:
            return None
        if self.story.total is not None:
            first = self.first
            if self.value + first > LARGEST:
                return None
            self.calculate("+", first, self.value, self.story.total)
        self.sentences.append(self.story.asks[self.rng.randrange(len(self.story.asks))])
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

    def begin(self) -> None:
        """Set the first quantity, by itself or as so many groups of so many."""
        event = self.rng.choice(self.story.starts)
        if event.ops == "*":
            groups, each = self.rng.randint(2, 9), self.rng.randint(3, 99)
            self.tell_event(event, groups, each)
            self.calculate("*", groups, each, event.steps[0])
        else:
            self.value = self.rng.randint(10, 399)
            self.first = self.value
            self.tell_event(event, self.value, 0)

    def add(self, event: Event) -> bool:
        """Tell one event and write its calculations; false where no operand fits."""
        rng, value = self.rng, self.value
        groups, k = 0, 0
        room = LARGEST - value if event.ops[-1] == "+" else value - 2
        if event.ops in ("+", "-"):
            k = rng.randint(3, min(399, room)) if room >= 3 else 0
        elif event.ops in ("*+", "*-"):
            groups = rng.randint(2, 9)
            k = rng.randint(3, min(99, room // groups)) if room // groups >= 3 else 0
        elif event.ops == "*":
            most = min(9, LARGEST // value) if value > 2 else 0
            k = rng.randint(2, most) if most >= 2 else 0
        elif event.ops == "/":
            fitting = [d for d in range(2, 10) if value % d == 0 and value // d >= 3]
            k = rng.choice(fitting) if fitting else 0
        elif event.ops == "%":
            fitting = [d for d in range(13, 60) if d % 10 and value > 3 * d and value % d >= 3]
            k = rng.choice(fitting) if fitting else 0
        if k == 0:
            return False
        self.tell_event(event, groups or k, k)
        if groups:
            self.calculate("*", groups, k, event.steps[0], keep=True)
            self.calculate(event.ops[1], value, groups * k, event.steps[1])
        elif event.ops == "*":
            self.calculate("*", k, value, event.steps[0])
        else:
            self.calculate(event.ops, value, k, event.steps[0])
        return True

    def tell_event(self, event: Event, b: int, k: int) -> None:
        """Append the event's sentence to the question."""
        self.sentences.append(event.sentence.replace("{b}", str(b)).replace("{k}", str(k)))
        self.template.append(event.ops or "start")

    def calculate(self, op: str, left: int, right: int, step: str, keep: bool = False) -> None:
        """Append a calculation and its paragraph; it becomes the quantity unless ``keep``."""
        result = evaluate(op, left, right)
        self.calculations.append(Calculation(op, left, right, result))
        chain = " = ".join([f"{left} {op} {right}", *scratch(op, left, right), str(result)])
        self.steps.append(step.replace("{c}", chain).format(**self.words))
        self.value = self.value if keep else result


def evaluate(op: str, left: int, right: int) -> int:
    """Calculate ``left op right`` (division is floored; the problems only divide exactly)."""
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    return left // right if op == "/" else left % right


def scratch(op: str, left: int, right: int) -> list[str]:
    """Write the place-value scratch between a calculation and its result: one line or none.

    Sums and differences take the leading digit of the second number first; products are split
    after the leading digit of the second number. Division and remainder have none.
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
