"""Project an evaluation of the loop to pairs with other cost ratios.

The token counts of an evaluation hold for any pair with the same decisions. This program multiplies
them by costs per token, relative to decoding a draft token:

    loop   = drafted + read * R * rho + (written - accepted) * R
    target = written * R

R is the cost ratio of the pair: ms per decoded token of the target over that of the draft. rho is
the cost of reading a token over that of decoding it, both by the target. Measure both for your
machine with `arbitrage bench` or `benchmarks/real_models/engine.py`.

    python benchmarks/real_pair/projection.py FOLDER [--ratios 2.5 5 10 20] [--rho 0.06]

FOLDER is the output folder of `arbitrage evaluate`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Answer = Mapping[str, Any]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[2.5, 5, 10, 20])
    parser.add_argument("--rho", type=float, default=0.06)
    options = parser.parse_args()
    points: dict[str, list[Answer]] = defaultdict(list)
    for line in (options.folder / "answers.jsonl").open():
        record = json.loads(line)
        if record.get("computed_tokens"):
            points[record["point"]].append(record)
    print(table(points, options.ratios, options.rho))


def table(points: Mapping[str, Sequence[Answer]], ratios: Sequence[float], rho: float) -> str:
    """Return the projected speed-up over the target alone, as a Markdown table.

    Args:
        points: Answers by policy and threshold. `target` must be one of them.
        ratios: Cost ratios R.
        rho: Cost of reading a token over that of decoding it.
    """
    heads = ["policy", "target's share of the tokens", *(f"R = {ratio:g}" for ratio in ratios)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, answers in points.items():
        draft, target = (sum(a[f"{role}_tokens"] for a in answers) for role in ("draft", "target"))
        cells = [name, f"{target / (draft + target):.0%}"]
        for ratio in ratios:
            alone = cost(points["target"], ratio, rho) / len(points["target"])
            cells.append(f"{alone / (cost(answers, ratio, rho) / len(answers)):.2f}×")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(answers: Sequence[Answer], ratio: float, rho: float) -> float:
    """Compute the cost of answers in decoded draft tokens, without prompts."""
    total = 0.0
    for answer in answers:
        decoded = answer["target_tokens"] - answer["accepted_draft_tokens"]
        drafted = answer["draft_tokens"] + answer["discarded_tokens"]
        # The target reads the draft's tokens, unless it writes alone or is never used.
        read = drafted if answer["computed_tokens"].get("target") else 0
        total += drafted + read * ratio * rho + decoded * ratio
    return total


if __name__ == "__main__":
    main()
