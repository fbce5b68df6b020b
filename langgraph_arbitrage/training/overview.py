"""Text summary of collected rows: class balance and a histogram of the advantage Δ."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from langgraph_arbitrage.training.rows import Row

__all__ = ["histogram", "summary"]

EIGHTHS = " ▏▎▍▌▋▊▉█"


def histogram(
    values: Sequence[float], low: float = -1.0, high: float = 1.0, bins: int = 20, width: int = 40
) -> list[str]:
    r"""Draw one line per bin: its range, its count and a bar.

    The length of the bar is proportional to the square root of the count.

    Example:
        >>> print("\n".join(histogram([0.1, 0.2, -0.9], bins=2, width=4)))
        [-1.00,  0.00)         1 ██▉
        [ 0.00,  1.00]         2 ████
    """
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    largest = max(counts, default=0) or 1
    lines = []
    for i, count in enumerate(counts):
        left = low + (high - low) * i / bins
        right = low + (high - low) * (i + 1) / bins
        eighths = round((count / largest) ** 0.5 * width * 8)
        bar = "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
        end = "]" if i == bins - 1 else ")"
        lines.append(f"[{left:5.2f}, {right:5.2f}{end} {count:9,} {bar}".rstrip())
    return lines


def summary(rows: Sequence[Row]) -> str:
    """Summarize rows: counts, class balance, mean scores, and the histogram of Δ."""
    if not rows:
        return "no rows"
    n = len(rows)
    questions = len({row["question"] for row in rows})
    positive = sum(row["y"] for row in rows)
    equal = sum(row["z_d"] == row["z_t"] for row in rows)
    draft, target = fmean(r["s_d"] for r in rows), fmean(r["s_t"] for r in rows)
    oracle = fmean(max(r["s_d"], r["s_t"]) for r in rows)
    balance = (
        f"y = 1 (the target's step is better): {positive:,} ({positive / n:.1%}), "
        f"y = 0: {n - positive:,} ({1 - positive / n:.1%}); equal steps: {equal / n:.1%}"
    )
    lines = [
        f"{n:,} rows from {questions:,} questions",
        balance,
        f"mean score: draft {draft:.3f}, target {target:.3f}, better of the two {oracle:.3f}",
        "Δ = s_t − s_d (bar length: square root of the count)",
        *histogram([row["delta"] for row in rows]),
    ]
    return "\n".join(lines)
