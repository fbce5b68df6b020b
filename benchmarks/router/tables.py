"""Format the results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(results: Mapping[str, Any]) -> str:
    """Format all parts that have results."""
    count = results["problems"]
    parts = [
        "# The embedded router",
        (
            f"Thresholds were chosen on {count['choose']} problems and evaluated on "
            f"{count['measure']} others. Learned: without problems that contain a step which none "
            "of the models has learned."
        ),
    ]
    if "judges" in results:
        parts += _signals(results["judges"])
    if "policies" in results:
        parts += _policies(results["policies"])
    if "speed" in results:
        parts += _speed(results["speed"])
    return "\n\n".join(parts) + "\n"


def _signals(signals: Mapping[str, Any]) -> list[str]:
    prm = signals["PRM"]
    rows = [
        [name, *(f"{v:.3f}" for v in values.values())]
        for name, values in signals["advantage"].items()
    ]
    return [
        "## Routing signals",
        (
            f"The PRM compared with the exact checker on {prm['steps']:,} steps, of which "
            f"{prm['right']:.0%} are right: AUC {prm['auc']:.3f}, accuracy "
            f"{prm['accuracy on right']:.1%} on right and {prm['accuracy on wrong']:.1%} on wrong "
            "steps."
        ),
        (
            "How well each signal predicts whether the target's step is better by the exact "
            f"checker, which holds for {signals['better']:.1%} of {signals['steps']:,} steps of "
            "the loop. Accuracies are at the chosen threshold."
        ),
        _table(["signal", "ρ with Δ", "ρ with the PRM's Δ", "AUC", "acc. y=0", "acc. y=1"], rows),
    ]


def _policies(policies: Mapping[str, Any]) -> list[str]:
    equal = policies["at equal escalation"]
    rates = list(next(iter(equal.values())))
    rows = [
        [signal, *(f"{at[r]['accuracy']:.1%} ({at[r]['escalated']:.0%})" for r in rates)]
        for signal, at in equal.items()
    ]
    against = [
        [signal, *(f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for d, low, high in
                  gaps.values())]
        for signal, gaps in policies["router against"].items()
    ]  # fmt: skip
    within = [
        [
            signal,
            f"{row['threshold']:.4f}",
            f"{row['escalated']:.1%}",
            f"{row['accuracy']:.1%}",
            f"{row['learned']:.1%}",
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in row["against target"])),
        ]
        for signal, row in policies["within one point of the target"].items()
    ]
    target, draft = policies["target"], policies["draft"]
    return [
        "## Policies at equal escalation",
        (
            f"Target alone {target['accuracy']:.1%} (learned {target['learned']:.1%}), draft alone "
            f"{draft['accuracy']:.1%} ({draft['learned']:.1%}). Accuracy, and the escalation rate "
            "that resulted from the threshold:"
        ),
        _table(["signal", *rates], rows),
        (
            "The router's accuracy minus that of another signal, in percentage points, with 95 % "
            "paired bootstrap intervals:"
        ),
        _table(["signal", *rates], against),
        "The chosen thresholds, with the lowest escalation rate within a point of the target:",
        _table(["signal", "threshold", "escalated", "accuracy", "learned", "minus target"], within),
    ]


def _speed(speed: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            *(f"{row[k]:.1%}" for k in ("accuracy", "learned", "escalated")),
            *(f"{1e3 * row[k]:.0f}" for k in ("mean s", "median s", "cost model, s")),
            *(f"{row[k]:.2f}×" for k in ("speed-up", "speed-up, learned")),
        ]
        for name, row in speed["policies"].items()
    ]
    heads = ["policy", "accuracy", "learned", "escalated", "mean ms", "median ms", "model ms",
             "speed-up", "on learned"]  # fmt: skip
    costs = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in speed["costs in ms"].items())
    return [
        f"## Time per question ({speed['problems']} problems, batch size 1)",
        _table(heads, rows),
        (
            f"The cost model multiplies tokens and steps by their costs in ms ({costs}). It "
            "assumes that the target decodes every token of an escalated step. In fact the target "
            "verifies the draft's step and decodes only the tokens after the accepted ones. Tokens "
            f"computed by the router per step: {speed['router tokens fed a step'] or 0:.1f}."
        ),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
