"""From rows to labelled steps: classes of Δ, a split by question, balance."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.policies import PastStep
from langgraph_arbitrage.training.questions import question_id
from langgraph_arbitrage.training.rows import Row, one_pair

__all__ = [
    "Example",
    "Labelled",
    "balanced",
    "classes_of",
    "prm_examples",
    "router_examples",
    "split",
]


@dataclass(frozen=True)
class Example:
    """A step in its context, and what is to be learned of it."""

    question: str
    history: tuple[str, ...]
    tags: tuple[int, ...]
    """Who wrote each step of the history: 0 the draft, 1 the target."""
    step: str
    label: int
    """1 where the target's step is better (router), or where the step is right (PRM)."""
    gain: float = 0.0
    """The advantage Δ of the target's step."""

    @property
    def past(self) -> tuple[PastStep, ...]:
        """The history as a scorer is asked about it."""
        return tuple(
            PastStep("target" if tag else "draft", text, 0)
            for text, tag in zip(self.history, self.tags, strict=True)
        )


@dataclass(frozen=True)
class Labelled:
    """What a router or a PRM learns from."""

    role: Literal["router", "prm"]
    examples: tuple[Example, ...]
    draft: str | None = None
    target: str | None = None
    """The pair that wrote the steps, where that is known; a router's is."""
    prm: str | None = None
    """Who scored the steps."""
    margin: float = 0.0
    """A router's label is 1 iff Δ > margin."""


def router_examples(rows: Sequence[Row], margin: float | None = None) -> Labelled:
    """The draft's step of each row, with y; equal ones once.

    Args:
        rows: Collected rows.
        margin: y = 1 iff Δ > margin; None takes the labels of the rows.

    Raises:
        DataError: The rows come from several pairs, or were labelled with several margins.
    """
    margins = {row.get("margin", 0.0) for row in rows} if margin is None else {margin}
    if len(margins) > 1:
        raise DataError(
            f"the rows were labelled with several margins ({', '.join(map(str, sorted(margins)))}):"
            " give the one that counts with --margin"
        )
    examples = _unique(
        Example(
            question=row["question"],
            history=tuple(row["history"]),
            tags=tuple(row["tags"]),
            step=row["z_d"],
            label=row["y"] if margin is None else int(row["delta"] > margin),
            gain=row["delta"],
        )
        for row in rows
    )
    return Labelled("router", examples, *one_pair(rows), _joined(rows, "prm"), margins.pop())


def prm_examples(rows: Sequence[Mapping[str, Any]], right: float = 0.5) -> Labelled:
    """Steps with verdicts, or the steps of collected rows; equal ones once.

    A collected row has two: each step is right where its score is at least `right`, which is what
    the exact checker said, or what a larger PRM thinks. The target's step is left out where its
    score is a mean over several.

    Args:
        rows: From `read_verdicts`.
        right: Least score of a right step.
    """
    found = []
    for row in rows:
        history = tuple(row["history"])
        tags = tuple(row.get("tags") or [0] * len(history))
        common = str(row["question"]), history, tags
        if "correct" in row:
            found.append(Example(*common, str(row["step"]), int(bool(row["correct"]))))
            continue
        found.append(Example(*common, row["z_d"], int(row["s_d"] >= right)))
        if row.get("samples", 1) == 1:
            found.append(Example(*common, row["z_t"], int(row["s_t"] >= right)))
    writers = _joined(rows, "draft"), _joined(rows, "target")
    return Labelled("prm", _unique(found), *writers, _joined(rows, "prm"))


def _joined(rows: Iterable[Mapping[str, Any]], column: str) -> str | None:
    """The values of a column; None where no row has it."""
    return ", ".join(sorted({str(row[column]) for row in rows if row.get(column)})) or None


def _unique(examples: Iterable[Example]) -> tuple[Example, ...]:
    found: dict[tuple[str, tuple[str, ...], str], Example] = {}
    for e in examples:
        found.setdefault((e.question, e.history, e.step), e)
    return tuple(found.values())


def split(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; all of a question are on the same side.

    Raises:
        DataError: One side would be empty, or all training examples have one label.
    """

    def place(question: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{question_id(question)}".encode()).digest()

    questions = sorted({e.question for e in examples}, key=place)
    count = max(1, round(share * len(questions)))
    held = set(questions[:count])
    training = [e for e in examples if e.question not in held]
    if not training:
        raise DataError(
            f"the rows have {len(questions)} questions, which is too few to train on and to hold "
            f"out {share:.0%}: collect more"
        )
    labels = {e.label for e in training}
    if len(labels) == 1:
        raise DataError(
            f"all {len(training)} training rows have the label {labels.pop()}: there is nothing to "
            "learn from one class. Collect more questions, harder ones, or choose a smaller "
            "--margin"
        )
    return training, [e for e in examples if e.question in held]


def classes_of(gains: Sequence[float], count: int, margin: float) -> list[float]:
    """Bounds between `count` classes of Δ: the middle one is the margin, the others quantiles.

    Class k holds the Δ above k of the bounds, so the upper half of the classes is y = 1.

    Raises:
        DataError: One side has too few different values for its half of the classes.
    """
    below = sorted({g for g in gains if g <= margin})
    above = sorted({g for g in gains if g > margin})
    half = count // 2
    if min(len(below), len(above)) < half:
        raise DataError(
            f"{count} classes need {half} different advantages on each side of {margin:g}; the "
            f"rows have {len(below)} and {len(above)}. Use 2 classes"
        )
    lower = sorted(g for g in gains if g <= margin)
    upper = sorted(g for g in gains if g > margin)
    return [*_quantiles(lower, half), margin, *_quantiles(upper, half)]


def _quantiles(values: Sequence[float], parts: int) -> list[float]:
    """Bounds that part sorted values into so many; distinct, each below some value."""
    distinct = sorted(set(values))
    bounds: list[float] = []
    for i in range(1, parts):
        wanted = values[i * len(values) // parts - 1]
        low = distinct.index(bounds[-1]) + 1 if bounds else 0
        high = len(distinct) - 1 - (parts - i)
        bounds.append(distinct[max(low, min(distinct.index(wanted), high))])
    return bounds


def balanced(labels: Sequence[int], seed: int) -> list[int]:
    """Indices with as many of each label, those of the larger classes drawn at random."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        groups[label].append(i)
    fewest = min(map(len, groups.values()))
    draw = random.Random(seed)
    return sorted(i for group in groups.values() for i in draw.sample(group, fewest))
