"""Record signals of draft steps, and whether each step turns a correct answer into a wrong one.

For each question the draft writes an answer, step by step. Of each step this program records the
log-probability and entropy of its tokens under both models, the rank of its tokens under the
target, and the target's grade (the policy Judge). From the prefix before each step the target
completes the answer: the answers before and after a step say whether the step changes the outcome.

    python benchmarks/real_pair/study.py --draft D --target T --questions gsm8k.jsonl
        [--rows 0 500] [--at-a-time 8]

Decoding is greedy. Each question is appended to benchmarks/results/real_pair_steps.jsonl at once,
and a rerun continues from there. `signals.py` evaluates the file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.data.answer_extraction import reference_answer
from langgraph_arbitrage.engine import ScoreRequest
from langgraph_arbitrage.evaluation.dataset import INSTRUCTION
from langgraph_arbitrage.evaluation.grading import grade
from langgraph_arbitrage.loop.answer_state import step_view
from langgraph_arbitrage.loop.engine_calls import EngineCall, submit_async
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.policies import Judge, TargetQuestion, Writer, judge
from langgraph_arbitrage.training.prefix import Prefix, greedy_run

RESULTS = Path(__file__).parents[1] / "results" / "real_pair_steps.jsonl"
ANSWER_TOKENS = 1024
ROLES: tuple[Writer, Writer] = ("draft", "target")
GRADING = TargetQuestion(judge.QUESTION, judge.REPLY, judge.DIGITS)


def main() -> None:
    """Study the questions that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draft", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="GSM8K as JSON Lines")
    parser.add_argument("--rows", type=int, nargs=2, default=[0, 500], help="first row, end row")
    parser.add_argument("--at-a-time", type=int, default=8, help="concurrent questions")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    lines = options.questions.read_text().splitlines()[slice(*options.rows)]
    rows = dict(zip(range(*options.rows), map(json.loads, lines), strict=False))
    if options.results.is_file():
        for line in options.results.open():
            rows.pop(json.loads(line)["question"], None)
    models = Models(
        ArbitrageSettings(
            draft=options.draft,
            target=options.target,
            dtype=options.dtype,
            max_tokens=ANSWER_TOKENS,
        )
    )
    if not models.share_vocabulary:
        sys.exit("The study compares tokens, so both models must have one vocabulary.")
    asyncio.run(study(models, rows, options.at_a_time, options.results))


async def study(
    models: Models, rows: dict[int, dict[str, Any]], at_a_time: int, results: Path
) -> None:
    """Study several questions at a time and append each result."""
    run, limit = greedy_run(models), asyncio.Semaphore(at_a_time)
    start, count = time.monotonic(), 0

    async def one(index: int, row: dict[str, Any]) -> None:
        nonlocal count
        async with limit:
            result = {"question": index} | await study_question(run, row)
        with results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        count += 1
        seconds = (time.monotonic() - start) / count
        left = seconds * (len(rows) - count) / 60
        line = f"{count}/{len(rows)} questions, {seconds:.0f} s each, {left:.0f} min left"
        print(line, file=sys.stderr, flush=True)

    results.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.gather(*(one(index, row) for index, row in rows.items()))


async def study_question(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """Write the draft's answer, score its steps, and complete it from each prefix."""
    prefix = Prefix.start(run, f"{row['question']}\n{INSTRUCTION}")
    prefixes = [prefix]
    while not prefix.finished:
        prefix = await prefix.append("draft", await prefix.generate("draft"), None)
        prefixes.append(prefix)
    *prefixes, whole = prefixes
    steps = whole.state["steps"]
    draft, target = await submit_async([score_call(run, role, whole) for role in ROLES])
    ends = list(accumulate(len(step["ids"]) for step in steps))
    parts = [slice(end - len(step["ids"]), end) for end, step in zip(ends, steps, strict=True)]
    grades = await submit_async(
        [
            run.models.target_call(GRADING, p.state["prompts"], p.state["steps"], step["ids"])
            for p, step in zip(prefixes, steps, strict=True)
        ]
    )
    # Where the target would write the draft's tokens, both prefixes have the same completion.
    same = [False, *(not any(target.ranks[part]) for part in parts[:-1])]
    started = [
        None if equal else asyncio.ensure_future(complete(run, p))
        for p, equal in zip(prefixes, same, strict=True)
    ]
    outcomes: list[dict[str, Any]] = []
    for completion in started:
        outcomes.append(await completion if completion else outcomes[-1])
    outcomes.append(outcome(whole.answer, ends[-1], whole.state["finish_reason"] != "stop"))
    for found in outcomes:
        found["right"] = grade(found["text"], reference_answer(row["answer"]))
    return {
        "steps": [
            {
                "text": step["text"],
                "draft_logprobs": rounded(draft.logprobs[part]),
                "draft_entropies": rounded(draft.entropies[part]),
                "target_logprobs": rounded(target.logprobs[part]),
                "target_entropies": rounded(target.entropies[part]),
                "target_ranks": target.ranks[part],
                "grade": round(Judge().score(step_view(whole.state), [graded]), 3),
                "right_before": before["right"],
                "right_after": after["right"],
                "capped": before["capped"] or after["capped"],
            }
            for step, part, graded, before, after in zip(
                steps, parts, grades, outcomes[:-1], outcomes[1:], strict=True
            )
        ],
        "target": {k: outcomes[0][k] for k in ("right", "tokens", "capped")},
        "draft": {k: outcomes[-1][k] for k in ("right", "tokens", "capped")},
    }


def score_call(run: Run, role: Writer, prefix: Prefix) -> EngineCall:
    """Score all tokens of an answer under a model."""
    prompts = prefix.state["prompts"]
    ids = run.models.input_ids(role, prompts, prefix.state["steps"])
    return EngineCall(run.models.engine(role), ScoreRequest(ids, start=len(prompts[role])))


async def complete(run: Run, prefix: Prefix) -> dict[str, Any]:
    """Complete an answer with the target alone."""
    written = sum(len(step["ids"]) for step in prefix.state["steps"])
    request = run.generation.request("target", prefix.state)
    request = replace(request, separators=(), max_tokens=ANSWER_TOKENS - written)
    [output] = await submit_async([EngineCall(run.models.engine("target"), request)])
    text = "".join(prefix.texts) + run.models.tokenizer("target").decode(output.ids)
    return outcome(text, written + len(output.ids), output.finish == "length")


def outcome(text: str, tokens: int, capped: bool) -> dict[str, Any]:
    """A complete answer. `capped`: it has reached the token limit."""
    return {"text": text, "tokens": tokens, "capped": capped}


def rounded(values: Sequence[float]) -> list[float]:
    """Round for the file."""
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    main()
