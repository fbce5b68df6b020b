"""What the tests collect with, and rows made up by them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from langgraph_arbitrage.training import Row
from tiny import pair

PAIR = {**pair(endless=True), "separator": " ", "max_steps": 4, "max_tokens": 60}
"""Settings of a tiny pair whose answers have four steps."""


def row(
    question: str, history: list[str], z_d: str, s_d: float, s_t: float, **others: object
) -> Row:
    """A collected row."""
    plain = {
        "question": question,
        "history": history,
        "tags": [0] * len(history),
        "z_d": z_d,
        "z_t": "So 3 + 4 = 7.\n\n",
        "s_d": s_d,
        "s_t": s_t,
        "delta": s_t - s_d,
        "y": int(s_t > s_d),
        "taken": 0,
        "rows": 1,
        "draft": "a",
        "target": "b",
        "prm": "checker",
        "seed": 0,
        "samples": 1,
        "margin": 0.0,
        "follow": "better",
    }
    return {**plain, **others}  # type: ignore[return-value]


def learnable(n: int, seed: int = 0) -> list[Row]:
    """Rows of n questions in which the draft's step is bad exactly where it is surprising."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        question = f"Ann has {i} apples and buys 4 more. How many?"
        for history in ([], ["She starts with 3.\n\n"]):
            bad = draw.random() < 0.5
            step = "zqxj vw kyq zzx!\n\n" if bad else "She adds 4 and has 7.\n\n"
            value = draw.uniform(0.0, 0.3) if bad else draw.uniform(0.6, 0.9)
            rows.append(row(question, history, step, round(value, 3), 0.5))
    return rows


def written(path: Path, rows: list[Row]) -> Path:
    """Rows as a file."""
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path
