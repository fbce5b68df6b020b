"""What came of a sweep: figures of each point, comparisons on the same questions; its file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.curves import curves_of
from langgraph_arbitrage.evaluation.dataset import LeftOut, Task
from langgraph_arbitrage.evaluation.points import ASSISTED, KINDS, Point
from langgraph_arbitrage.evaluation.statistics import Bootstrap, Estimate, wilson

__all__ = ["RESULTS", "VERSION", "Results", "load_results", "results_of"]

RESULTS = "results.json"
FORMAT, VERSION = "langgraph_arbitrage evaluation", 1

Results = dict[str, Any]
"""Plain data, as its file has it; `docs/evaluation/README.md` describes it."""


def results_of(
    points: Sequence[Point],
    tasks: Sequence[Task],
    left_out: Sequence[LeftOut],
    answers: Sequence[Mapping[str, Any]],
    config: EvaluateConfig,
    about: Mapping[str, Any],
) -> Results:
    """All figures of a sweep, over the questions that every point has answered.

    Args:
        points: What was measured.
        tasks: What was asked.
        left_out: What was not, and why.
        answers: The lines of the answers' file.
        config: How.
        about: What the sweep's file says of it: models, data set, settings.

    Raises:
        DataError: No question has been answered at every point.
    """
    by_point: dict[str, dict[str, Mapping[str, Any]]] = {point.key: {} for point in points}
    for answer in answers:
        if answer["point"] in by_point:
            by_point[answer["point"]][answer["question"]] = answer
    asked = [t for t in tasks if all(t.id in found for found in by_point.values())]
    if not asked:
        raise DataError("no question has been answered at every point yet: go on with the sweep")
    boot = Bootstrap(len(asked), config.resamples, config.confidence)
    table = [
        _figures(point, [by_point[point.key][task.id] for task in asked], asked, boot, config)
        for point in points
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "made": time.strftime("%Y-%m-%d"),
        "machine": _machine(),
        "about": dict(about),
        "confidence": config.confidence,
        "within": config.within,
        "questions": [
            {"id": t.id, "question": t.question, "reference": t.reference}
            | ({"learned": not t.problem.hard} if t.problem else {})
            for t in asked
        ],
        "unanswered": len(tasks) - len(asked),
        "left out": [vars(one) for one in left_out],
        "points": table,
        **curves_of(table, boot, config.within),
    }


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in ("langgraph-arbitrage", "torch", "transformers")},
    }


def _figures(
    point: Point,
    answers: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    boot: Bootstrap,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Everything about one point."""
    n = len(answers)
    right = [int(a["right"]) for a in answers]
    timed = [a for a in answers if "seconds" in a]
    seconds = [float(a.get("seconds", 0.0)) for a in answers]
    steps = [step for a in timed for step in a["steps"]]
    escalated = [step for step in steps if step["writer"] == "target"]
    known = [s for s in escalated if s["s_d"] is not None and s["s_t"] is not None]
    tokens = {
        who: sum(a[f"{who}_tokens"] for a in timed) / n for who in ("draft", "target", "discarded")
    }
    by_tokens = sum(s["tokens"] for s in escalated) / max(1, sum(s["tokens"] for s in steps))
    loop = point.kind != ASSISTED
    means = boot.means([seconds])
    learned = [r for r, t in zip(right, tasks, strict=True) if t.problem and not t.problem.hard]
    return {
        "key": point.key,
        "kind": point.kind,
        "title": point.title,
        "about": KINDS[point.kind].text,
        "threshold": point.threshold,
        "default": point.default,
        "n": n,
        "accuracy": Estimate(sum(right) / n, *wilson(sum(right), n, config.confidence)).plain,
        "accuracy, learned": sum(learned) / len(learned) if learned else None,
        "escalation by steps": len(escalated) / max(1, len(steps)) if loop else None,
        "escalation by tokens": by_tokens if loop else None,
        "wasted": sum(s["s_t"] <= s["s_d"] for s in known) / len(known) if known else None,
        "seconds": {
            "mean": boot.estimate(float(means[0][0]), means[1][:, 0]).plain,
            "median": _quantile(seconds, 0.5),
            "p95": _quantile(seconds, 0.95),
        },
        "tokens": {who: round(count, 2) for who, count in tokens.items()},
        "steps": round(len(steps) / n, 3),
        "finish": dict(Counter(a["finish"] for a in timed)),
        "graded late": sum(bool(a.get("late")) for a in answers),
        "errors": [a["error"] for a in answers if "error" in a],
        # One number a question, in the order of the questions: what comparisons are made of.
        "each": {
            "right": right,
            "seconds": [round(s, 4) for s in seconds],
            "steps": [len(a.get("steps", ())) for a in answers],
            "escalated": [
                sum(s["writer"] == "target" for s in a.get("steps", ())) if loop else 0
                for a in answers
            ],
        },
    }


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def save_results(results: Results, folder: Path) -> Path:
    """Write them."""
    path = folder / RESULTS
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_results(path: str | Path) -> Results:
    """Read a results file.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        DataError: It is not there, is no results file, or one of another version.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(
            f"{path} is no results file: give the {RESULTS} that `arbitrage evaluate` wrote"
        )
    if found.get("version") != VERSION:
        raise DataError(
            f"{path} is of version {found.get('version')!r} and this program reads {VERSION}: make "
            "it again with `arbitrage evaluate`, or read it with the program that wrote it"
        )
    return found


def mean_seconds(point: Mapping[str, Any]) -> float:
    """Mean seconds of a point."""
    return fmean(point["each"]["seconds"])
