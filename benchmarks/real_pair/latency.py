"""Measure the latency that each policy adds to a draft step.

All policies accept every step. For each question the policies take turns, and the first one
changes. A prefix per policy keeps the policies from sharing the KV cache. The added latency of a
step is the time that the policy takes to decide.

    python benchmarks/real_pair/latency.py --draft D --target T --questions gsm8k.jsonl
        [--count 8] [--at-a-time 1]

The table is written to benchmarks/results/real_pair_latency_N.md for N questions at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from langgraph_arbitrage import (
    DraftConfidence,
    Judge,
    Policy,
    TargetLikelihood,
    create_arbitrage_graph,
)
from langgraph_arbitrage.evaluation.dataset import INSTRUCTION

RESULTS = Path(__file__).parents[1] / "results"
POLICIES: dict[str, Policy] = {
    "DraftConfidence": DraftConfidence(0.0, signal="product"),
    "TargetLikelihood": TargetLikelihood(1e9),
    "Judge": Judge(0.0),
}


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draft", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="GSM8K as JSON Lines")
    parser.add_argument("--count", type=int, default=8, help="number of questions")
    parser.add_argument("--at-a-time", type=int, default=1, help="concurrent questions")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    lines = options.questions.read_text().splitlines()[: options.count]
    questions = [f"{json.loads(line)['question']}\n{INSTRUCTION}" for line in lines]
    steps = asyncio.run(measure(options, questions))
    text = table(steps, options.at_a_time)
    print(text)
    (RESULTS / f"real_pair_latency_{options.at_a_time}.md").write_text(f"{text}\n")


async def measure(
    options: argparse.Namespace, questions: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Answer all questions with all policies; return the steps of each policy."""
    settings: dict[str, Any] = {
        "draft": options.draft,
        "target": options.target,
        "dtype": options.dtype,
        "temperature": 0,
    }
    graphs = {
        name: create_arbitrage_graph(**settings, router=policy).compile()
        for name, policy in POLICIES.items()
    }
    for graph in graphs.values():
        await graph.ainvoke({"messages": [("user", "Hello!")]}, {"recursion_limit": 1000})
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    names = list(POLICIES)
    for start in range(0, len(questions), options.at_a_time):
        batch = questions[start : start + options.at_a_time]
        first = start // options.at_a_time % len(names)
        for name in names[first:] + names[:first]:
            inputs = [{"messages": [("user", f"({name})\n{question}")]} for question in batch]
            states = await asyncio.gather(
                *(graphs[name].ainvoke(one, {"recursion_limit": 1000}) for one in inputs)
            )
            found[name] += [step for state in states for step in state["steps"]]
    return found


def table(steps: dict[str, list[dict[str, Any]]], at_a_time: int) -> str:
    """Render the table in Markdown."""
    lines = [
        f"{at_a_time} at a time; medians; the share is of the sums over all steps.",
        "",
        "| policy | steps | added ms per step | draft's ms per step | share of the draft's time |",
        "|---|---|---|---|---|",
    ]
    for name, own in steps.items():
        added = [1000 * (s["seconds"] - s["writer_seconds"]) for s in own]
        draft = [1000 * s["writer_seconds"] for s in own]
        cells = [name, len(own), *(f"{statistics.median(ms):.0f}" for ms in (added, draft))]
        cells.append(f"{sum(added) / sum(draft):.0%}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
