"""A small evaluation of the embedded pair, beside the last one that was committed."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

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
from measure import SEED, table

__all__ = ["lines", "measured"]

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
QUESTIONS = 100
KINDS = ("router", "rsd", "confidence", "draft", "target", "assisted")


def measured(scale: float) -> list[dict[str, Any]]:
    """Each policy as it is by default: accuracy, seconds, and what changed since the last run."""
    new = evaluated(max(10, round(QUESTIONS * scale)))
    rows = [
        {
            "policy": p["title"],
            "accuracy": p["accuracy"],
            "escalation": p["escalation by steps"],
            "seconds": p["seconds"]["mean"],
        }
        for p in new["points"]
    ]
    if RESULTS.is_file():
        found = compare(load_results(RESULTS), new)
        for change in found.changes:
            row = next(row for row in rows if row["policy"] == change.after)
            row["accuracy since"] = [*change.accuracy.plain, change.accuracy_verdict]
            row["seconds since"] = [*change.slowdown.plain, change.seconds_verdict]
        rows[0]["notes"] = list(found.notes)
    if scale == 1:
        RESULTS.write_text(json.dumps(new, ensure_ascii=False) + "\n", encoding="utf-8")
    return rows


def evaluated(questions: int) -> dict[str, Any]:
    """The results of so many held-out problems, one at a time."""
    dataset = load_dataset(f"embedded:{questions}:{SEED}")
    lineup = Lineup.of(ArbitrageSettings())
    at = {kind: [found] for kind in KINDS[:3] if (found := lineup.threshold(kind)) is not None}
    config, scorer = EvaluateConfig(), load_scorer("embedded:prm")
    with (
        tempfile.TemporaryDirectory() as folder,
        Sweep(dataset, lineup, config, KINDS, at, Path(folder), scorer) as sweep,
    ):
        asyncio.run(sweep.run())
        return results_of(sweep.points, sweep.tasks, [], sweep.answers(), config, sweep.header)


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""
    heads = ["policy", "right, %", "escalated, %", "mean s", "right since, points", "times the s"]

    def since(row: dict[str, Any], name: str, scale: float, digits: int) -> str:
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
            since(row, "accuracy since", 100, 1),
            since(row, "seconds since", 1, 2),
        ]
        for row in rows
    ]
    notes = rows[0].get("notes", [])
    return [*table(heads, cells), *(["", *(f"Note: {note}." for note in notes)] if notes else [])]
