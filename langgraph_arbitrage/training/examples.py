"""Convert rows to labelled steps: advantage classes, the split by question, class balancing."""

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
from langgraph_arbitrage.training.rows import Row, model_pair

__all__ = [
    "Example",
    "TrainingData",
    "balanced_indices",
    "class_bounds",
    "prm_examples",
    "router_examples",
    "split",
]


@dataclass(frozen=True)
class Example:
    """A step in its context, with its label."""

    question: str
    history: tuple[str, ...]
    tags: tuple[int, ...]
    """Writer of each step of the history: 0 is the draft, 1 is the target."""
    step: str
    label: int
    """1 if the target's step is better (router) or if the step is right (PRM), else 0."""
    advantage: float = 0.0
    """The advantage Δ of the target's step."""

    @property
    def past_steps(self) -> tuple[PastStep, ...]:
        """The history in the form that scorers take as input."""
        return tuple(
            PastStep("target" if tag else "draft", text, 0)
            for text, tag in zip(self.history, self.tags, strict=True)
        )


@dataclass(frozen=True)
class TrainingData:
    """Labelled steps from which a router or a PRM is trained."""

    role: Literal["router", "prm"]
    examples: tuple[Example, ...]
    draft: str | None = None
    target: str | None = None
    """The draft and the target that wrote the steps. Always set for a router; None for a PRM if
    the pair is unknown."""
    prm: str | None = None
    """The PRM that scored the steps, or `checker`."""
    margin: float = 0.0
    """Margin of a router's labels: a label is 1 iff Δ > margin."""


def router_examples(rows: Sequence[Row], margin: float | None = None) -> TrainingData:
    """Create a router's training data: the draft's step of each row with its label y.

    Duplicate steps are dropped.

    Args:
        rows: Collected rows.
        margin: Margin for new labels: y = 1 iff Δ > margin. None uses the labels of the rows.

    Raises:
        DataError: The rows come from several pairs, or have labels for several margins.
    """
    margins = {row.get("margin", 0.0) for row in rows} if margin is None else {margin}
    if len(margins) > 1:
        raise DataError(
            f"the rows are labelled with several margins ({', '.join(map(str, sorted(margins)))}):"
            " choose one with --margin"
        )
    examples = _unique(
        Example(
            question=row["question"],
            history=tuple(row["history"]),
            tags=tuple(row["tags"]),
            step=row["z_d"],
            label=row["y"] if margin is None else int(row["delta"] > margin),
            advantage=row["delta"],
        )
        for row in rows
    )
    return TrainingData("router", examples, *model_pair(rows), _joined(rows, "prm"), margins.pop())


def prm_examples(rows: Sequence[Mapping[str, Any]], right: float = 0.5) -> TrainingData:
    """Create a PRM's training data from labelled steps or from collected rows.

    A collected row yields two steps. A step counts as right if its score, from the exact checker
    or from another PRM, is at least `right`. The target's step is left out if its score is a mean
    over several samples. Duplicate steps are dropped.

    Args:
        rows: Rows from `read_labelled_steps`.
        right: Minimum score of a right step.
    """
    examples = []
    for row in rows:
        history = tuple(row["history"])
        tags = tuple(row.get("tags") or [0] * len(history))
        common = str(row["question"]), history, tags
        if "correct" in row:
            examples.append(Example(*common, str(row["step"]), int(bool(row["correct"]))))
            continue
        examples.append(Example(*common, row["z_d"], int(row["s_d"] >= right)))
        if row.get("samples", 1) == 1:
            examples.append(Example(*common, row["z_t"], int(row["s_t"] >= right)))
    writers = _joined(rows, "draft"), _joined(rows, "target")
    return TrainingData("prm", _unique(examples), *writers, _joined(rows, "prm"))


def _joined(rows: Iterable[Mapping[str, Any]], column: str) -> str | None:
    """Return the distinct values of a column, joined by commas; None if no row has a value."""
    return ", ".join(sorted({str(row[column]) for row in rows if row.get(column)})) or None


def _unique(examples: Iterable[Example]) -> tuple[Example, ...]:
    unique: dict[tuple[str, tuple[str, ...], str], Example] = {}
    for e in examples:
        unique.setdefault((e.question, e.history, e.step), e)
    return tuple(unique.values())


def split(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split into training and held-out examples, keeping the examples of a question together.

    Args:
        examples: All examples.
        share: Share of the questions to hold out.
        seed: Seed of the split.

    Raises:
        DataError: No training example is left, or all of them have the same label.
    """

    def order(question: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{question_id(question)}".encode()).digest()

    questions = sorted({e.question for e in examples}, key=order)
    count = max(1, round(share * len(questions)))
    held_out = set(questions[:count])
    training = [e for e in examples if e.question not in held_out]
    if not training:
        raise DataError(
            f"the rows have {len(questions)} questions, too few to train on and to hold out "
            f"{share:.0%}: collect more"
        )
    labels = {e.label for e in training}
    if len(labels) == 1:
        raise DataError(
            f"all {len(training)} training rows have the label {labels.pop()}, but training needs "
            "both classes. Collect more or harder questions, or choose a smaller --margin"
        )
    return training, [e for e in examples if e.question in held_out]


def class_bounds(advantages: Sequence[float], count: int, margin: float) -> list[float]:
    """Compute the `count` − 1 bounds between classes of the advantage Δ.

    The middle bound is the margin; the other bounds are quantiles. An advantage that exceeds k
    bounds belongs to class k, so the upper half of the classes has y = 1.

    Raises:
        DataError: One side of the margin has too few distinct values for its half of the classes.
    """
    below = sorted({a for a in advantages if a <= margin})
    above = sorted({a for a in advantages if a > margin})
    half = count // 2
    if min(len(below), len(above)) < half:
        raise DataError(
            f"{count} classes need {half} different advantages on each side of {margin:g}, but "
            f"the rows have {len(below)} below and {len(above)} above. Use 2 classes"
        )
    lower = sorted(a for a in advantages if a <= margin)
    upper = sorted(a for a in advantages if a > margin)
    return [*_quantiles(lower, half), margin, *_quantiles(upper, half)]


def _quantiles(values: Sequence[float], parts: int) -> list[float]:
    """Compute bounds that divide sorted values into `parts` nonempty parts.

    The bounds are distinct and lie below the largest value.
    """
    distinct = sorted(set(values))
    bounds: list[float] = []
    for i in range(1, parts):
        quantile = values[i * len(values) // parts - 1]
        low = distinct.index(bounds[-1]) + 1 if bounds else 0
        high = len(distinct) - 1 - (parts - i)
        bounds.append(distinct[max(low, min(distinct.index(quantile), high))])
    return bounds


def balanced_indices(labels: Sequence[int], seed: int) -> list[int]:
    """Select the same number of indices for each label, at random where a label has more."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        groups[label].append(i)
    size = min(map(len, groups.values()))
    rng = random.Random(seed)
    return sorted(i for group in groups.values() for i in rng.sample(group, size))
