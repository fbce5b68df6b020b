"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(found: Mapping[str, Any]) -> str:
    """All parts that were measured."""
    count = found["problems"]
    parts = [
        "# The embedded router",
        (
            f"Thresholds chosen on {count['choose']} problems, everything measured on "
            f"{count['measure']} others. Learned: without the problems that hold a step which no "
            "model has learned."
        ),
    ]
    if "judges" in found:
        parts += _judges(found["judges"])
    if "policies" in found:
        parts += _policies(found["policies"])
    if "speed" in found:
        parts += _speed(found["speed"])
    return "\n\n".join(parts) + "\n"


def _judges(judges: Mapping[str, Any]) -> list[str]:
    prm = judges["PRM"]
    rows = [
        [name, *(f"{v:.3f}" for v in figures.values())]
        for name, figures in judges["advantage"].items()
    ]
    return [
        "## Judges",
        (
            f"The PRM against the exact checker, {prm['steps']:,} steps of which "
            f"{prm['right']:.0%} are right: AUC {prm['auc']:.3f}, accuracy on right steps "
            f"{prm['accuracy on right']:.1%}, on wrong ones {prm['accuracy on wrong']:.1%}."
        ),
        (
            f"Who tells where the target's step is better (exactly; {judges['better']:.1%} of "
            f"{judges['steps']:,} steps that the loop meets)? Accuracies at the chosen threshold."
        ),
        _table(["judge", "ρ with Δ", "ρ with the PRM's Δ", "AUC", "acc. y=0", "acc. y=1"], rows),
    ]


def _policies(policies: Mapping[str, Any]) -> list[str]:
    equal = policies["at equal escalation"]
    rates = list(next(iter(equal.values())))
    rows = [
        [judge, *(f"{at[r]['accuracy']:.1%} ({at[r]['escalated']:.0%})" for r in rates)]
        for judge, at in equal.items()
    ]
    against = [
        [judge, *(f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for d, low, high in
                  gaps.values())]
        for judge, gaps in policies["router against"].items()
    ]  # fmt: skip
    within = [
        [
            judge,
            f"{row['threshold']:.4f}",
            f"{row['escalated']:.1%}",
            f"{row['accuracy']:.1%}",
            f"{row['learned']:.1%}",
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in row["against target"])),
        ]
        for judge, row in policies["within one point of the target"].items()
    ]
    target, draft = policies["target"], policies["draft"]
    return [
        "## Policies at equal escalation",
        (
            f"Target alone {target['accuracy']:.1%} (learned {target['learned']:.1%}), draft alone "
            f"{draft['accuracy']:.1%} ({draft['learned']:.1%}). Accuracy, and the escalation rate "
            "that came of the threshold:"
        ),
        _table(["judge", *rates], rows),
        "The router's accuracy minus the other's, in points, with 95 % paired bootstrap intervals:",
        _table(["against", *rates], against),
        "The threshold that escalates least and stays within one point of the target, as chosen:",
        _table(["judge", "number", "escalated", "accuracy", "learned", "minus target"], within),
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
        f"## Time a question ({speed['problems']} problems, batch 1, taking turns)",
        _table(heads, rows),
        (
            f"Model: tokens and steps times their costs in ms ({costs}), as if the target decoded "
            "each token of an escalated step; it verifies the draft's step first and keeps what "
            "it would have written itself. Tokens fed through the router a step: "
            f"{speed['router tokens fed a step'] or 0:.1f}."
        ),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
