"""Compare the loop on a real pair with the draft alone and the target alone.

The questions are from GSM8K, and decoding is greedy. The threshold of `DraftConfidence` escalates
about 30 % of the steps. With one question at a time, the arms alternate after each question, and a
fourth arm, "loop, no verification", regenerates escalated steps without the draft's tokens. With
several at a time, each arm answers all questions before the next arm starts.

    python benchmarks/real_models/loop.py --draft D --target T --questions gsm8k.jsonl
        [--rows 500 524] [--at-a-time 8] [--threshold 0.9]

Each answer is appended to benchmarks/results/real_loop.jsonl at once. A rerun continues from there.
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
"""Name of the arm without verification."""


def main() -> None:
    """Answer the questions that have no result yet, then print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draft", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="GSM8K as JSON Lines")
    parser.add_argument("--rows", type=int, nargs=2, default=[500, 524], help="first row, end row")
    parser.add_argument("--at-a-time", type=int, default=1, help="concurrent questions")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--unverified", type=int, default=12, help="questions without verification")
    options = parser.parse_args()
    lines = options.questions.read_text().splitlines()[slice(*options.rows)]
    rows = dict(zip(range(*options.rows), map(json.loads, lines), strict=True))
    done = [json.loads(line) for line in RESULTS.open()] if RESULTS.is_file() else []
    done = [d for d in done if d["at_a_time"] == options.at_a_time]
    base = {"draft": options.draft, "target": options.target, "dtype": "bfloat16"}
    base |= {"max_tokens": options.max_tokens, "temperature": 0}
    arms = {
        "draft": ChatArbitrage(**base, router=AlwaysDraft()),
        "target": ChatArbitrage(**base, router=AlwaysTarget()),
        "loop": ChatArbitrage(**base, router=DraftConfidence(options.threshold)),
    }
    for llm in arms.values():
        llm.invoke("Hello!")  # loads the models
    if options.at_a_time == 1:
        arms[UNVERIFIED] = arms["loop"]
        done += one_at_a_time(rows, arms, done, options.unverified)
    else:
        done += concurrently(rows, arms, done, options.at_a_time)
    summary([d for d in done if d["row"] in rows])


def one_at_a_time(
    rows: dict[int, Any], arms: dict[str, ChatArbitrage], done: list[Any], unverified: int
) -> list[Any]:
    """Answer each question with all arms, in random order.

    Args:
        rows: Examples by row number.
        arms: Chat models by name of the arm.
        done: Existing records.
        unverified: Number of questions of the arm without verification.

    Returns:
        The new records.
    """
    known, records = {(d["row"], d["arm"]) for d in done}, []
    for n, (row, example) in enumerate(rows.items()):
        order = list(arms)
        random.Random(row).shuffle(order)
        for arm in order:
            if (row, arm) in known or (arm == UNVERIFIED and n >= unverified):
                continue
            ModelRunner.verifies_drafts = arm != UNVERIFIED
            # A prefix per arm makes every arm compute the whole prompt.
            question = f"({arm})\n{example['question']}"
            start = time.perf_counter()
            message = arms[arm].invoke(question)
            records.append(save_record(row, arm, 1, time.perf_counter() - start, message, example))
            ModelRunner.verifies_drafts = True
    return records


def concurrently(
    rows: dict[int, Any], arms: dict[str, ChatArbitrage], done: list[Any], at_a_time: int
) -> list[Any]:
    """Answer all questions concurrently with one arm after another.

    Arms with existing records are skipped.
    """
    records: list[Any] = []
    for arm, llm in arms.items():
        if any(d["arm"] == arm for d in done):
            continue
        questions = [f"({arm}, {at_a_time})\n{e['question']}" for e in rows.values()]
        start = time.perf_counter()
        config = {"max_concurrency": at_a_time}
        messages = asyncio.run(llm.abatch(questions, config=config))  # type: ignore[arg-type]
        seconds = (time.perf_counter() - start) / len(rows)
        for (row, example), message in zip(rows.items(), messages, strict=True):
            records.append(save_record(row, arm, at_a_time, seconds, message, example))
    return records


def save_record(
    row: int, arm: str, at_a_time: int, seconds: float, message: Any, example: Any
) -> dict[str, Any]:
    """Append the record of an answer to the results file and return it."""
    metadata = message.response_metadata["arbitrage"]
    expected = example["answer"].rpartition("####")[2].strip().replace(",", "")
    numbers = re.findall(r"-?\d[\d,]*\.?\d*", message.text)
    right = bool(numbers) and float(numbers[-1].rstrip(".").replace(",", "")) == float(expected)
    record = {
        "row": row,
        "arm": arm,
        "at_a_time": at_a_time,
        "seconds": round(seconds, 3),
        "tokens": message.usage_metadata["output_tokens"],
        "right": right,
        "steps": len(metadata["steps"]),
        "escalated": sum(s["writer"] == "target" for s in metadata["steps"]),
        "escalated_seconds": sum(
            s["seconds"] for s in metadata["steps"] if s["writer"] == "target"
        ),
        "accepted_draft_tokens": metadata["accepted_draft_tokens"],
        "draft_tokens": metadata["draft_tokens"],
        "target_tokens": metadata["target_tokens"],
        "discarded_tokens": metadata["discarded_tokens"],
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), file=sys.stderr, flush=True)
    return record


def summary(done: list[dict[str, Any]]) -> None:
    """Print a table of the arms with paired speed-ups over the target, and the cost model."""
    print("| arm | questions | s per question | ms per token | right | escalated | speed-up |")
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
        seconds_per_token = {
            arm: sum(d["seconds"] for d in by_arm[arm].values())
            / sum(d["tokens"] for d in by_arm[arm].values())
            for arm in ("draft", "target")
        }
        drafted = sum(d["draft_tokens"] + d["discarded_tokens"] for d in loop)
        decoded = sum(d["target_tokens"] - d["accepted_draft_tokens"] for d in loop)
        total = drafted * seconds_per_token["draft"] + decoded * seconds_per_token["target"]
        print(f"\nCost model (tokens × ms per token): {total / len(loop):.2f} s per question.")
    if UNVERIFIED in by_arm:
        shared = set(by_arm[UNVERIFIED]) & set(by_arm["loop"])
        for arm in ("loop", UNVERIFIED):
            values = [by_arm[arm][r] for r in shared]
            steps = sum(d["escalated"] for d in values)
            seconds = sum(d["escalated_seconds"] for d in values) / max(1, steps)
            accepted = sum(d["accepted_draft_tokens"] for d in values) / max(1, steps)
            print(
                f"{arm}, per escalated step: {seconds:.2f} s, {accepted:.1f} accepted draft tokens"
            )


if __name__ == "__main__":
    main()
