"""Compare signals for the question: does this draft step turn a right answer into a wrong one?

A step spoils the answer if the target's completion is right from the prefix before the step and
wrong from the prefix after it. For each signal this program prints

- the AUC for spoiling steps, with a bootstrap interval over the questions, and its difference to
  the AUC of the reference signal, paired by question,
- the share of the spoiling steps that a policy catches if it escalates the 20, 30 and 40 % of the
  steps that the signal ranks highest,
- the same if the escalated steps contain 20, 30 and 40 % of the tokens, and at 30 % the difference
  to the reference signal. The cost of an escalation grows with its tokens, and some signals
  prefer long steps, so this is the comparison at equal cost.

    python benchmarks/real_pair/signals.py [RESULTS.jsonl] [--reference "target: sum"]

It reads the file that `study.py` writes. Steps where a completion reached the token limit are
left out. The table is also written to `real_pair_signals.md` beside the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parents[1] / "results" / "real_pair_steps.jsonl"
RATES = (0.2, 0.3, 0.4)
SAMPLES = 2000
LEVEL = 0.9
WINDOW = 8
REFERENCE = "target: sum of −log p"

Step = dict[str, Any]
Vector = NDArray[np.float64]


def window(logprobs: Sequence[float]) -> float:
    """Largest mean −log p of any `WINDOW` consecutive tokens, in nats per token."""
    size = min(WINDOW, len(logprobs))
    sums = np.convolve(logprobs, np.ones(size), mode="valid")
    return float(-sums.min() / size)


SIGNALS: dict[str, Callable[[Step], float]] = {
    "draft: mean token probability": lambda s: -float(np.exp(s["draft_logprobs"]).mean()),
    "draft: lowest token probability": lambda s: -min(s["draft_logprobs"]),
    "draft: sum of −log p": lambda s: -sum(s["draft_logprobs"]),
    "draft: worst window": lambda s: window(s["draft_logprobs"]),
    "draft: highest entropy": lambda s: max(s["draft_entropies"]),
    "draft: sum of entropies": lambda s: sum(s["draft_entropies"]),
    "draft: entropy of the first token": lambda s: s["draft_entropies"][0],
    "random": lambda s: crc32(s["text"].encode()),
    "length in tokens": lambda s: len(s["draft_logprobs"]),
    "target: sum of −log p": lambda s: -sum(s["target_logprobs"]),
    "target: −log p per token": lambda s: -float(np.mean(s["target_logprobs"])),
    "target: −log p per byte": lambda s: -sum(s["target_logprobs"]) / len(s["text"].encode()),
    "target: lowest token probability": lambda s: -min(s["target_logprobs"]),
    "target: worst window": lambda s: window(s["target_logprobs"]),
    "target: log-ratio to the draft": lambda s: (
        sum(s["draft_logprobs"]) - sum(s["target_logprobs"])
    ),
    "target: tokens not ranked first": lambda s: sum(rank > 0 for rank in s["target_ranks"]),
    "target: worst rank": lambda s: max(
        rank + 1 - np.exp(logprob)
        for rank, logprob in zip(s["target_ranks"], s["target_logprobs"], strict=True)
    ),
    "target: grade (judge)": lambda s: -s["grade"],
}
"""Signals of a step. A higher value means: escalate."""


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--reference", default=REFERENCE, choices=SIGNALS)
    options = parser.parse_args()
    questions = [json.loads(line) for line in options.results.open()]
    text = report(questions, options.reference)
    print(text)
    options.results.with_name("real_pair_signals.md").write_text(f"{text}\n")


def report(questions: Sequence[dict[str, Any]], reference: str) -> str:
    """Compare all signals as a Markdown table.

    Args:
        questions: Records of `study.py`.
        reference: Signal that the others are compared with.
    """
    kept = [[s for s in q["steps"] if not s["capped"]] for q in questions]
    kept = [steps for steps in kept if steps]
    steps = [s for own in kept for s in own]
    spoils = np.array([s["right_before"] and not s["right_after"] for s in steps])
    mends = sum(s["right_after"] and not s["right_before"] for s in steps)
    owners = np.repeat(np.arange(len(kept)), [len(own) for own in kept])
    samples = [
        np.concatenate([np.flatnonzero(owners == q) for q in drawn])
        for drawn in np.random.default_rng(0).integers(len(kept), size=(SAMPLES, len(kept)))
    ]
    samples = [rows for rows in samples if 0 < spoils[rows].sum() < len(rows)]
    values = {name: np.array([signal(s) for s in steps]) for name, signal in SIGNALS.items()}
    drawn = {
        name: np.array([auc(value[rows], spoils[rows]) for rows in samples])
        for name, value in values.items()
    }
    tokens = np.array([float(len(s["draft_logprobs"])) for s in steps])
    drawn_caught = {
        name: np.array(
            [share_caught(value[rows], spoils[rows], 0.3, tokens[rows]) for rows in samples]
        )
        for name, value in values.items()
    }
    rates = " / ".join(f"{rate:.0%}" for rate in RATES)
    heads = [
        "signal",
        f"AUC ({LEVEL:.0%} interval)",
        "AUC − reference",
        f"caught at {rates} of the steps",
        f"caught at {rates} of the tokens",
        "at 30% of the tokens − reference",
        "value at 30%",
    ]
    lines = [summary(questions, steps, spoils, mends), ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, value in values.items():
        caught = [share_caught(value, spoils, rate) for rate in RATES]
        at_cost = [share_caught(value, spoils, rate, tokens) for rate in RATES]
        cells = [name, interval(auc(value, spoils), drawn[name])]
        if name == reference:
            differences = ["reference", "reference"]
        else:
            gap = auc(value, spoils) - auc(values[reference], spoils)
            gap_at_cost = at_cost[1] - share_caught(values[reference], spoils, 0.3, tokens)
            differences = [
                interval(gap, drawn[name] - drawn[reference]),
                interval(gap_at_cost, drawn_caught[name] - drawn_caught[reference]),
            ]
        cells += [
            differences[0],
            " / ".join(f"{share:.0%}" for share in caught),
            " / ".join(f"{share:.0%}" for share in at_cost),
            differences[1],
            f"{np.quantile(value, 0.7):.3g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Reference: {reference}. Value at 30 %: 30 % of the steps have a higher value."]
    return "\n".join(lines)


def summary(
    questions: Sequence[dict[str, Any]], steps: Sequence[Step], spoils: Vector, mends: int
) -> str:
    """Describe the data in one sentence."""
    accuracy = {w: np.mean([q[w]["right"] for q in questions]) for w in ("draft", "target")}
    capped = {w: np.mean([q[w]["capped"] for q in questions]) for w in ("draft", "target")}
    tokens = np.mean([len(s["draft_logprobs"]) for s in steps])
    return (
        f"{len(questions)} questions. Right: target {accuracy['target']:.1%}, draft "
        f"{accuracy['draft']:.1%}. At the token limit: target {capped['target']:.1%}, draft "
        f"{capped['draft']:.1%}. {len(steps)} steps of {tokens:.0f} tokens on average: "
        f"{int(spoils.sum())} spoil a right answer, {mends} mend a wrong one."
    )


def auc(value: Vector, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: P(positive ranks above negative), with ties as one half."""
    _, inverse, counts = np.unique(value, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # average rank of ties
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(value) - n)))


def share_caught(
    value: Vector, positive: NDArray[np.bool_], rate: float, weight: Vector | None = None
) -> float:
    """Share of the positives among the steps with the highest values.

    Args:
        value: Signal of each step.
        positive: Whether a step is to be caught.
        rate: Fraction of the total weight of the steps that are selected.
        weight: Weight of each step. Default: 1.
    """
    order = np.argsort(-value, kind="stable")
    weight = np.ones(len(value)) if weight is None else weight
    selected = order[np.cumsum(weight[order]) <= rate * weight.sum() + 0.5]
    return float(positive[selected].sum() / positive.sum())


def interval(value: float, drawn: Vector) -> str:
    """Format a value with its bootstrap interval."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
