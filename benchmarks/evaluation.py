"""Evaluate the embedded pair on a few questions and compare with the last committed run."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, SEED, markdown_table
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.evaluation import (
    EvaluateConfig,
    Lineup,
    Sweep,
    compare,
    load_dataset,
    load_results,
    results_of,
)
from langgraph_arbitrage.evaluation.tables import interval
from langgraph_arbitrage.scorers import load_scorer

__all__ = ["markdown", "measure"]

BASELINE = RESULTS / "evaluation.json"
QUESTIONS = 100
KINDS = ("router", "rsd", "confidence", "draft", "target", "assisted")


def measure(scale: float) -> list[dict[str, Any]]:
    """Evaluate each policy at its default threshold and compare with the last committed run."""
    results = evaluate(max(10, round(QUESTIONS * scale)))
    rows = [
        {
            "policy": p["title"],
            "accuracy": p["accuracy"],
            "escalation": p["escalation by steps"],
            "seconds": p["seconds"]["mean"],
        }
        for p in results["points"]
    ]
    if BASELINE.is_file():
        comparison = compare(load_results(BASELINE), results)
        for change in comparison.changes:
            row = next(row for row in rows if row["policy"] == change.after)
            row["accuracy since"] = [*change.accuracy.plain, change.accuracy_verdict]
            row["seconds since"] = [*change.slowdown.plain, change.seconds_verdict]
        rows[0]["notes"] = list(comparison.notes)
    if scale == 1:
        BASELINE.write_text(json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8")
    return rows


def evaluate(questions: int) -> dict[str, Any]:
    """Evaluate on held-out problems, one at a time.

    Args:
        questions: Number of problems.
    """
    dataset = load_dataset(f"embedded:{questions}:{SEED}")
    lineup = Lineup.of(ArbitrageSettings())
    defaults = {kind: lineup.threshold(kind) for kind in KINDS[:3]}
    thresholds = {kind: [value] for kind, value in defaults.items() if value is not None}
    config, scorer = EvaluateConfig(), load_scorer("embedded:prm")
    with (
        tempfile.TemporaryDirectory() as folder,
        Sweep(dataset, lineup, config, KINDS, thresholds, Path(folder), scorer) as sweep,
    ):
        asyncio.run(sweep.run())
        return results_of(sweep.points, sweep.tasks, [], sweep.answers(), config, sweep.header)


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Format the results as Markdown lines."""
    heads = ["policy", "accuracy, %", "escalated, %", "mean s"]
    heads += ["accuracy change, points", "ratio of mean s"]

    def change(row: dict[str, Any], name: str, scale: float, digits: int) -> str:
        if name not in row:
            return ""
        *values, verdict = row[name]
        return f"{interval(values, scale, digits)} {verdict}"

    cells = [
        [
            row["policy"],
            interval(row["accuracy"], 100, 1),
            "" if row["escalation"] is None else f"{100 * row['escalation']:.0f}",
            interval(row["seconds"], 1, 3),
            change(row, "accuracy since", 100, 1),
            change(row, "seconds since", 1, 2),
        ]
        for row in rows
    ]
    notes = rows[0].get("notes", [])
    lines = markdown_table(heads, cells)
    return [*lines, "", *(f"Note: {note}." for note in notes)] if notes else lines
