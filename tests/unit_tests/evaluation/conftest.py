"""Fixtures: a grader, and synthetic answers of a sweep with their results."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from langgraph_arbitrage.evaluation import EvaluateConfig, Grader, results_of
from langgraph_arbitrage.evaluation.dataset import LeftOut, Task
from langgraph_arbitrage.evaluation.points import Point

POINTS = (
    Point("router", 0.2),
    Point("router", 0.6, default=True),
    Point("rsd", 0.5),
    Point("draft"),
    Point("target"),
    Point("assisted"),
)
SHARES = {"router@0.2": 0.5, "router@0.6": 0.2, "rsd@0.5": 0.4, "draft": 0.0, "target": 1.0}
SOLVED = {"router@0.2": 0.8, "router@0.6": 0.7, "rsd@0.5": 0.7, "draft": 0.4}


def tasks(n: int, prefix: str = "q") -> list[Task]:
    """Return n questions."""
    return [Task(f"{prefix}{i}", f"{prefix} {i}?", "7", f"{prefix} {i}?") for i in range(n)]


def answer(point: Point, task: Task, *, solved: float, pace: float) -> dict[str, Any]:
    """Return the record of an answer with four steps. Target steps take longer."""
    rng = random.Random(f"{point.key}/{task.id}")
    share = SHARES.get(point.key, 1.0)
    writers = ["target" if rng.random() < share else "draft" for _ in range(4)]
    by_target = writers.count("target")
    return {
        "point": point.key,
        "question": task.id,
        "right": random.Random(task.id).random() < solved,  # depends on the question alone
        "late": False,
        "seconds": pace * (0.1 + 0.1 * by_target + 0.01 * rng.random()),
        "finish": "stop",
        "draft_tokens": 10 * (4 - by_target),
        "target_tokens": 10 * by_target,
        "discarded_tokens": 10 * by_target,
        "text": "So 7.",
        "steps": [
            {
                "writer": writer,
                "text": f"Step {i} of {writer}.\n\n",
                "score": 0.5,
                "tokens": 10,
                "seconds": 0.1,
                "draft": f"Step {i} of draft." if writer == "target" else None,
                "s_d": 0.5,
                "s_t": [0.4, 0.9][i % 2] if writer == "target" else None,
            }
            for i, writer in enumerate(writers)
        ],
    }


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    """One grader for all tests."""
    with Grader() as grader:
        yield grader


Made = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def made() -> Callable[..., Made]:
    """Return a function that creates results and answers of a sweep."""

    def make(
        n: int = 60,
        *,
        points: Sequence[Point] = POINTS,
        solved: dict[str, float] | None = None,
        pace: float = 1.0,
        prefix: str = "q",
        left_out: Sequence[LeftOut] = (),
        **about: Any,
    ) -> Made:
        questions = tasks(n, prefix)
        probabilities = SOLVED | (solved or {})
        answers = [
            answer(point, task, solved=probabilities.get(point.key, 0.85), pace=pace)
            for point in points
            for task in questions
        ]
        header = {
            "format": "x",
            "version": 1,
            "dataset": "made",
            "draft": ["d", "1"],
            "target": ["t", "2"],
            "router": ["r", "3"],
            "prm": ["p", "4"],
            "concurrency": 1,
        }
        config = EvaluateConfig(resamples=300)
        scores = [{"router": i / n, "rsd": 1 - i / n} for i in range(n)]
        results = results_of(points, questions, left_out, answers, config, header | about, scores)
        return results, answers

    return make
