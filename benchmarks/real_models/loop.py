"""The loop on a real pair beside draft alone and target alone, one and several questions at a time.

GSM8K questions, greedy, `DraftConfidence` at a threshold that escalates about 30 % of the steps. At
batch 1 the arms take turns question by question; "loop, no verification" regenerates an escalated
step from the prefix alone. Several at a time, each arm answers all questions in turn.

    python benchmarks/real_models/loop.py --draft D --target T --questions gsm8k.jsonl
        [--rows 500 524] [--at-a-time 8] [--threshold 0.9]

Each answer is appended to benchmarks/results/real_loop.jsonl as it comes; a rerun continues there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, DraftConfidence
from langgraph_arbitrage.engine.model_runner import ModelRunner

RESULTS = Path(__file__).parents[1] / "results" / "real_loop.jsonl"
UNVERIFIED = "loop, no verification"


def main() -> None:
    """Measure what is missing, then print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draft", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs=2, default=[500, 524])
    parser.add_argument("--at-a-time", type=int, default=1)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--unverified", type=int, default=12, help="questions of that arm")
    options = parser.parse_args()
    lines = options.questions.read_text().splitlines()[slice(*options.rows)]
    rows = dict(zip(range(*options.rows), map(json.loads, lines), strict=True))
    done = [json.loads(line) for line in RESULTS.open()] if RESULTS.is_file() else []
    done = [d for d in done if d["at_a_time"] == options.at_a_time]
    base = {"draft": options.draft, "target": options.target, "dtype": "bfloat16"}
    base |= {"max_tokens": options.max_tokens, "temperature": 0}
    loop = DraftConfidence(options.threshold)
    arms = {
        "draft": ChatArbitrage(**base, router=AlwaysDraft()),
        "target": ChatArbitrage(**base, router=AlwaysTarget()),
        "loop": ChatArbitrage(**base, router=loop),
    }
    for llm in arms.values():
        llm.invoke("Hello!")  # loads the models
    if options.at_a_time == 1:
        arms[UNVERIFIED] = arms["loop"]
        done += one_at_a_time(rows, arms, done, options.unverified)
    else:
        done += several(rows, arms, done, options.at_a_time)
    summary([d for d in done if d["row"] in rows])


def one_at_a_time(
    rows: dict[int, Any], arms: dict[str, ChatArbitrage], done: list[Any], unverified: int
) -> list[Any]:
    """Each question by each arm, in another order each time."""
    known, found = {(d["row"], d["arm"]) for d in done}, []
    for n, (row, example) in enumerate(rows.items()):
        order = list(arms)
        random.Random(row).shuffle(order)
        for arm in order:
            if (row, arm) in known or (arm == UNVERIFIED and n >= unverified):
                continue
            ModelRunner.verifies_drafts = arm != UNVERIFIED
            # Every arm computes the prompt: a word of its own in front of the question.
            question = f"({arm})\n{example['question']}"
            start = time.perf_counter()
            message = arms[arm].invoke(question)
            found.append(noted(row, arm, 1, time.perf_counter() - start, message, example))
            ModelRunner.verifies_drafts = True
    return found


def several(
    rows: dict[int, Any], arms: dict[str, ChatArbitrage], done: list[Any], at_a_time: int
) -> list[Any]:
    """All questions by each arm; an arm that was measured is not measured again."""
    found: list[Any] = []
    for arm, llm in arms.items():
        if any(d["arm"] == arm for d in done):
            continue
        questions = [f"({arm}, {at_a_time})\n{e['question']}" for e in rows.values()]
        start = time.perf_counter()
        config = {"max_concurrency": at_a_time}
        messages = asyncio.run(llm.abatch(questions, config=config))  # type: ignore[arg-type]
        seconds = (time.perf_counter() - start) / len(rows)
        for (row, example), message in zip(rows.items(), messages, strict=True):
            found.append(noted(row, arm, at_a_time, seconds, message, example))
    return found


def noted(
    row: int, arm: str, at_a_time: int, seconds: float, message: Any, example: Any
) -> dict[str, Any]:
    """One answer's figures, appended to the results."""
    figures = message.response_metadata["arbitrage"]
    wanted = example["answer"].rpartition("####")[2].strip().replace(",", "")
    numbers = re.findall(r"-?\d[\d,]*\.?\d*", message.text)
    right = bool(numbers) and float(numbers[-1].rstrip(".").replace(",", "")) == float(wanted)
    found = {
        "row": row,
        "arm": arm,
        "at_a_time": at_a_time,
        "seconds": round(seconds, 3),
        "tokens": message.usage_metadata["output_tokens"],
        "right": right,
        "steps": len(figures["steps"]),
        "escalated": sum(s["writer"] == "target" for s in figures["steps"]),
        "escalated_seconds": sum(s["seconds"] for s in figures["steps"] if s["writer"] == "target"),
        "accepted_draft_tokens": figures["accepted_draft_tokens"],
        "draft_tokens": figures["draft_tokens"],
        "target_tokens": figures["target_tokens"],
        "discarded_tokens": figures["discarded_tokens"],
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def summary(done: list[dict[str, Any]]) -> None:
    """A table of the arms, with paired ratios over the target, and the cost model."""
    print("| arm | questions | s a question | ms a token | right | escalated | over target |")
    print("|---|---|---|---|---|---|---|")
    by_arm: dict[str, dict[int, Any]] = {}
    for d in done:
        by_arm.setdefault(d["arm"], {})[d["row"]] = d
    for arm, answers in by_arm.items():
        values = list(answers.values())
        seconds = [d["seconds"] for d in values]
        tokens = sum(d["tokens"] for d in values)
        steps, escalated = (sum(d[k] for d in values) for k in ("steps", "escalated"))
        pairs = [(by_arm["target"][r]["seconds"], d["seconds"]) for r, d in answers.items()
                 if r in by_arm.get("target", {})]  # fmt: skip
        ratio = sum(a for a, _ in pairs) / sum(b for _, b in pairs) if pairs else float("nan")
        print(
            f"| {arm} | {len(values)} | {statistics.mean(seconds):.2f} "
            f"| {1e3 * sum(seconds) / tokens:.1f} | {sum(d['right'] for d in values)} "
            f"| {escalated / steps:.0%} | {ratio:.2f} |"
        )
    if {"draft", "target", "loop"} <= set(by_arm):
        loop = list(by_arm["loop"].values())
        a_token = {
            arm: sum(d["seconds"] for d in by_arm[arm].values())
            / sum(d["tokens"] for d in by_arm[arm].values())
            for arm in ("draft", "target")
        }
        drafted = sum(d["draft_tokens"] + d["discarded_tokens"] for d in loop)
        decoded = sum(d["target_tokens"] - d["accepted_draft_tokens"] for d in loop)
        cost = (drafted * a_token["draft"] + decoded * a_token["target"]) / len(loop)
        print(f"\nCost model of the loop (tokens × ms a token alone): {cost:.2f} s a question.")
    if UNVERIFIED in by_arm:
        shared = set(by_arm[UNVERIFIED]) & set(by_arm["loop"])
        for arm in ("loop", UNVERIFIED):
            values = [by_arm[arm][r] for r in shared]
            n = sum(d["escalated"] for d in values)
            spent = sum(d["escalated_seconds"] for d in values) / max(1, n)
            kept = sum(d["accepted_draft_tokens"] for d in values) / max(1, n)
            print(f"{arm}: {spent:.2f} s an escalated step, {kept:.1f} draft tokens accepted in it")


if __name__ == "__main__":
    main()
