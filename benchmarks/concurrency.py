"""Measure throughput at 1, 8, 32 and 64 concurrent questions: three policies, three baselines.

As a program, `concurrency.py SIDE LEVELS SCALE` measures one side in this process and prints JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from common import CHECKPOINTS, accuracy, markdown_table, peak_mib, questions, run_isolated

__all__ = ["markdown", "measure"]

LEVELS = (1, 8, 32, 64)
QUESTIONS = {1: 32, 8: 64, 32: 256, 64: 384}
"""Number of questions per level. A multiple of the level, since fewer questions are in progress at
the end of a run."""
MAX_TOKENS = 300
POLICIES = ("draft only", "target only", "arbitrage")
"""Sides that use this package."""
BASELINES = ("generate, one by one", "generate, left-padded", "continuous batching")
"""Sides in which transformers runs the target alone."""
BLOCK_SIZE = 32
"""Tokens per block of continuous batching. The default, 256, wastes memory on short texts."""
Answers = tuple[list[str], int]
"""Texts, and the number of generated tokens."""


def measure(rounds: int, scale: float, levels: tuple[int, ...] = LEVELS) -> list[dict[str, Any]]:
    """Measure all sides; return a row for each side and level.

    Args:
        rounds: Number of rounds; medians are returned. The sides alternate.
        scale: Factor for the numbers of questions.
        levels: Numbers of concurrent questions.
    """
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for side in (*POLICIES, *BASELINES):
            print(f"measuring {side}", file=sys.stderr)
            rows = run_isolated("concurrency.py", side, ",".join(map(str, levels)), scale)
            for row in rows:
                results.setdefault((side, row["at_once"]), []).append(row)
    return [
        {"side": side, "at_once": level, **_median(rows)} for (side, level), rows in results.items()
    ]


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in rows[0] if name not in ("side", "at_once")]
    return {name: statistics.median(row[name] for row in rows) for name in names}


# --- one side, in a process of its own ---------------------------------------------------


def measure_side(side: str, levels: list[int], scale: float) -> list[dict[str, Any]]:
    """Measure one side at rising levels, so that peak memory belongs to the current level."""
    import torch

    if side == "continuous batching":
        torch.set_num_threads(1)  # faster than torch's default here; the other sides keep theirs
    answer = policy_side(side) if side in POLICIES else baseline_side(side)
    answer(questions(2), 1)  # loads the models
    rows = []
    for level in sorted(levels):
        if side == BASELINES[0] and rows:
            rows.append(rows[0] | {"at_once": level})  # not concurrent: the same at every level
            continue
        prompts = questions(max(2, round(QUESTIONS[level] * scale)))
        # Warm up at this level, so that growing caches is not timed.
        answer(questions(max(2, round(2 * level * scale))), level)
        start = time.perf_counter()
        texts, tokens = answer(prompts, level)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "at_once": level,
                "questions_per_second": len(prompts) / seconds,
                "tokens_per_second": tokens / seconds,
                "solved": accuracy(texts),
                "peak_mib": peak_mib(),
            }
        )
    return rows


def policy_side(side: str) -> Callable[[list[str], int], Answers]:
    """Return a function that answers with the chat model and a policy."""
    from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage

    policies = {"draft only": AlwaysDraft(), "target only": AlwaysTarget(), "arbitrage": None}
    llm = ChatArbitrage(router=policies[side], max_tokens=MAX_TOKENS)

    def answer(prompts: list[str], level: int) -> Answers:
        messages = asyncio.run(llm.abatch(prompts, config={"max_concurrency": level}))
        usages = (m.usage_metadata or {} for m in messages)
        return [m.text for m in messages], sum(usage["output_tokens"] for usage in usages)

    return answer


def baseline_side(side: str) -> Callable[[list[str], int], Answers]:
    """Return a function that answers with the target alone by transformers."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig

    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = CHECKPOINTS["target"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(ModelSpec(path))
    end_id = model.generation_config.eos_token_id
    end_ids = set(end_id if isinstance(end_id, list) else [end_id])

    def until_end(ids: list[int]) -> list[int]:
        return list(itertools.takewhile(lambda token: token not in end_ids, ids))

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            out = model.generate(
                padded,
                attention_mask=mask,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        return out[:, width:].tolist()  # type: ignore[no-any-return]

    def by_batches(prompts: list[list[int]], level: int) -> Iterator[list[int]]:
        for i in range(0, len(prompts), level):
            yield from generate(prompts[i : i + level])

    def by_continuous_batching(prompts: list[list[int]], level: int) -> Iterator[list[int]]:
        # By default, the cache would take 90 % of the free memory on a CPU.
        blocks = level * -(-(MAX_TOKENS + max(map(len, prompts))) // BLOCK_SIZE)
        outputs = model.generate_batch(
            prompts,
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=BLOCK_SIZE,
                num_blocks=blocks,
                max_batch_tokens=256 + level,
                max_requests_per_batch=level,
            ),
        )
        ordered = sorted(outputs.values(), key=lambda o: int(o.request_id.rpartition("_")[2]))
        yield from (output.generated_tokens for output in ordered)

    methods = {
        BASELINES[0]: lambda prompts, _: by_batches(prompts, 1),
        BASELINES[1]: by_batches,
        BASELINES[2]: by_continuous_batching,
    }

    def answer(prompts: list[str], level: int) -> Answers:
        inputs = [tokenizer.render([{"role": "user", "content": q}]) for q in prompts]
        outputs = [until_end(ids) for ids in methods[side](inputs, level)]
        # The end token counts as generated.
        return [tokenizer.decode(ids) for ids in outputs], sum(len(ids) + 1 for ids in outputs)

    return answer


# --- the report --------------------------------------------------------------------------


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Format the results as Markdown lines, followed by the goals and the speed-up of the loop."""
    results = {(row["side"], row["at_once"]): row for row in rows}
    levels = sorted({row["at_once"] for row in rows})
    body = []
    for row in rows:
        first = results[row["side"], levels[0]]
        ratio = row["questions_per_second"] / first["questions_per_second"]
        body.append(
            [
                row["side"],
                row["at_once"],
                row["questions_per_second"],
                row["tokens_per_second"],
                f"{ratio:.1f} ×",
                f"{row['solved']:.0%}",
                f"{row['peak_mib']:.0f}",
            ]
        )
    heads = ["side", "concurrent", "questions/s", "tokens/s", f"relative to {levels[0]}"]
    heads += ["accuracy", "peak MiB"]
    summary = (f"- {line}" for line in _summary(results, levels))
    return [*markdown_table(heads, body), "", *summary]


def _summary(results: dict[tuple[str, int], dict[str, Any]], levels: list[int]) -> Iterator[str]:
    def rate(side: str, level: int) -> float:
        return float(results[side, level]["tokens_per_second"])

    def ratio(a: tuple[str, int], b: tuple[str, int]) -> str:
        rates = [results[key]["questions_per_second"] for key in (a, b)]
        return f"{rates[0] / rates[1]:.2f} ×"

    low, high = levels[0], 32 if 32 in levels else levels[-1]
    target, draft, batching = "target only", "draft only", BASELINES[2]
    yield (
        f"Target only, {high} concurrent questions relative to {low}: "
        f"{ratio((target, high), (target, low))} (goal: 6)."
    )
    yield (
        f"Target only relative to continuous batching, {high} concurrent questions: "
        f"{ratio((target, high), (batching, high))} (goal: 2)."
    )
    if 64 in levels:
        yield (
            f"Target only, 64 concurrent questions relative to {high}: "
            f"{ratio((target, 64), (target, high))} (goal: 1)."
        )
    token_cost = {n: rate(draft, n) / rate(target, n) for n in (low, high)}
    solved = {side: results[side, high]["solved"] for side in ("arbitrage", target)}
    yield (
        f"Arbitrage relative to target only: {ratio(('arbitrage', low), (target, low))} at {low} "
        f"and {ratio(('arbitrage', high), (target, high))} at {high} concurrent questions "
        f"(accuracy {solved['arbitrage']:.0%} and {solved[target]:.0%}). Batching makes target "
        f"tokens {rate(target, high) / rate(target, low):.1f} times cheaper and draft tokens "
        f"{rate(draft, high) / rate(draft, low):.1f} times: a target token costs as much as "
        f"{token_cost[low]:.1f} draft tokens at {low} and {token_cost[high]:.1f} at {high}. In the "
        "loop few steps are escalated at the same time, so the target's batches are smaller and "
        "its tokens cost more than when it answers alone."
    )


if __name__ == "__main__":
    print(
        json.dumps(
            measure_side(sys.argv[1], [int(n) for n in sys.argv[2].split(",")], float(sys.argv[3]))
        )
    )
