"""Results of a sweep: statistics of each point, paired comparisons, and the results file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.evaluation.curves import curves_of
from langgraph_arbitrage.evaluation.dataset import LeftOut, Task
from langgraph_arbitrage.evaluation.points import ASSISTED, KINDS, Point
from langgraph_arbitrage.evaluation.statistics import Bootstrap, Estimate, wilson

__all__ = ["RESULTS", "VERSION", "Results", "load_results", "results_of", "save_results"]

RESULTS = "results.json"
FORMAT, VERSION = "langgraph_arbitrage evaluation", 1
LIMITS = ("length", "context", "max_steps")
"""Finish reasons of answers that a limit has cut off."""

Results = dict[str, Any]
"""Content of the results file as plain data, documented in `docs/evaluation/README.md`."""


def results_of(
    points: Sequence[Point],
    tasks: Sequence[Task],
    left_out: Sequence[LeftOut],
    answers: Sequence[Mapping[str, Any]],
    config: EvaluateConfig,
    about: Mapping[str, Any],
    draft_scores: Sequence[Mapping[str, float | None]] = (),
) -> Results:
    """Compute all statistics of a sweep over the questions that every point has answered.

    Args:
        points: Points of the sweep.
        tasks: Questions of the sweep.
        left_out: Excluded questions.
        answers: Records of the answers file.
        config: Options of the sweep.
        about: Header of the answers file: models, dataset, settings.
        draft_scores: Scores of the pilot's draft steps, by policy.

    Raises:
        DataError: No question has been answered at every point.
    """
    by_point: dict[str, dict[str, Mapping[str, Any]]] = {point.key: {} for point in points}
    for answer in answers:
        if answer["point"] in by_point:
            by_point[answer["point"]][answer["question"]] = answer
    answered = [t for t in tasks if all(t.id in done for done in by_point.values())]
    if not answered:
        raise DataError("no question has been answered at every point yet: continue the sweep")
    boot = Bootstrap(len(answered), config.resamples, config.confidence)
    table = [
        _statistics(
            point, [by_point[point.key][task.id] for task in answered], answered, boot, config
        )
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
            for t in answered
        ],
        "unanswered": len(tasks) - len(answered),
        "left out": [vars(one) for one in left_out],
        "points": table,
        "draft scores": _sorted_scores(draft_scores),
        **curves_of(table, boot, config.within),
    }


def _sorted_scores(rows: Sequence[Mapping[str, float | None]]) -> dict[str, list[float]]:
    """Return each policy's scores in ascending order."""
    kinds = rows[0] if rows else ()
    return {
        kind: sorted(float(f"{score:.5g}") for row in rows if (score := row[kind]) is not None)
        for kind in kinds
    }


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in ("langgraph-arbitrage", "torch", "transformers")},
    }


def _statistics(
    point: Point,
    answers: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    boot: Bootstrap,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Compute the statistics of one point."""
    n = len(answers)
    right = [int(a["right"]) for a in answers]
    timed = [a for a in answers if "seconds" in a]
    seconds = [float(a.get("seconds", 0.0)) for a in answers]
    steps = [step for a in timed for step in a["steps"]]
    escalated = [step for step in steps if step["writer"] == "target"]
    known = [s for s in escalated if s["s_d"] is not None and s["s_t"] is not None]
    tokens = {
        kind: sum(a[f"{kind}_tokens"] for a in timed) / n
        for kind in ("draft", "target", "discarded")
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
        "tokens": {kind: round(count, 2) for kind, count in tokens.items()},
        "steps": round(len(steps) / n, 3),
        "finish": dict(Counter(a["finish"] for a in timed)),
        "at limit": sum(a["finish"] in LIMITS for a in timed) / n,
        "graded late": sum(bool(a.get("late")) for a in answers),
        "errors": [a["error"] for a in answers if "error" in a],
        # One value per question, in the order of the questions, as paired comparisons need.
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


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]


def save_results(results: Results, folder: Path) -> Path:
    """Write the results file and return its path."""
    path = folder / RESULTS
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_results(path: str | Path) -> Results:
    """Read a results file.

    Args:
        path: Path to the file, or to the folder that contains it.

    Raises:
        DataError: The file does not exist, is not a results file, or has another format version.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        results = None
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise DataError(
            f"{path} is not a results file: pass the {RESULTS} written by `arbitrage evaluate`"
        )
    if results.get("version") != VERSION:
        raise DataError(
            f"{path} has format version {results.get('version')!r}, but this program reads version "
            f"{VERSION}: run `arbitrage evaluate` again, or read the file with the program that "
            "wrote it"
        )
    return results
