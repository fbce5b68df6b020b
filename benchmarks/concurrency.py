"""Throughput at 1, 8, 32 and 64 questions at a time: three of our policies, three ways of theirs.

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

from measure import CHECKPOINTS, apart, peak_mib, questions, solved, table

__all__ = ["lines", "measured"]

LEVELS = (1, 8, 32, 64)
QUESTIONS = {1: 32, 8: 64, 32: 256, 64: 384}
"""How many each level is measured on: many times as many as go on at once, since the last ones are
fewer at a time."""
MAX_TOKENS = 300
OURS = ("draft only", "target only", "arbitrage")
THEIRS = ("generate, one by one", "generate, left-padded", "continuous batching")
Answers = tuple[list[str], int]  # texts, and tokens written


def measured(rounds: int, scale: float, levels: tuple[int, ...] = LEVELS) -> list[dict[str, Any]]:
    """A row for each side and level: medians over rounds in which the sides take turns."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for side in (*OURS, *THEIRS):
            print(f"{side} …", file=sys.stderr)
            for row in apart("concurrency.py", side, ",".join(map(str, levels)), scale):
                found.setdefault((side, row["at_once"]), []).append(row)
    return [
        {"side": side, "at_once": level, **_median(rows)} for (side, level), rows in found.items()
    ]


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in rows[0] if name not in ("side", "at_once")]
    return {name: statistics.median(row[name] for row in rows) for name in names}


# --- one side, in its own process --------------------------------------------------------


def one_side(side: str, levels: list[int], scale: float) -> list[dict[str, Any]]:
    """Rows of one side, from few at once to many, so that each peak of memory is its level's."""
    import torch

    if side == "continuous batching":
        torch.set_num_threads(1)  # faster than on all; every other side chooses or has torch's own
    answer = ours(side) if side in OURS else theirs(side)
    answer(questions(2), 1)  # loads and warms up
    rows = []
    for level in sorted(levels):
        if side == THEIRS[0] and rows:
            rows.append(rows[0] | {"at_once": level})  # more at once change nothing
            continue
        asked = questions(max(2, round(QUESTIONS[level] * scale)))
        # Memory grows before it is timed, and our models meet what they make traces for.
        answer(questions(max(2, round(2 * level * scale))), level)
        start = time.perf_counter()
        texts, tokens = answer(asked, level)
        spent = time.perf_counter() - start
        rows.append(
            {
                "at_once": level,
                "questions_per_second": len(asked) / spent,
                "tokens_per_second": tokens / spent,
                "solved": solved(texts),
                "peak_mib": peak_mib(),
            }
        )
    return rows


def ours(side: str) -> Callable[[list[str], int], Answers]:
    """Answers of a chat model under a policy, through the whole graph."""
    from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage

    policies = {"draft only": AlwaysDraft(), "target only": AlwaysTarget(), "arbitrage": None}
    llm = ChatArbitrage(router=policies[side], max_tokens=MAX_TOKENS)

    def answer(asked: list[str], at_once: int) -> Answers:
        messages = asyncio.run(llm.abatch(asked, config={"max_concurrency": at_once}))
        written = (m.usage_metadata or {} for m in messages)
        return [m.text for m in messages], sum(usage["output_tokens"] for usage in written)

    return answer


def theirs(side: str) -> Callable[[list[str], int], Answers]:
    """Answers of the target alone by transformers."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig

    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = CHECKPOINTS["target"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(ModelSpec(path))
    end = model.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])

    def cut(ids: list[int]) -> list[int]:
        return list(itertools.takewhile(lambda token: token not in ends, ids))

    def by_generate(prompts: list[list[int]]) -> list[list[int]]:
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

    def by_batches(prompts: list[list[int]], at_once: int) -> Iterator[list[int]]:
        for i in range(0, len(prompts), at_once):
            yield from by_generate(prompts[i : i + at_once])

    def by_continuous_batching(prompts: list[list[int]], at_once: int) -> Iterator[list[int]]:
        # On a CPU, it would take nine tenths of the free memory for its cache by itself.
        blocks = at_once * -(-(MAX_TOKENS + max(map(len, prompts))) // PAGE)
        found = model.generate_batch(
            prompts,
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE,
                num_blocks=blocks,
                max_batch_tokens=256 + at_once,
                max_requests_per_batch=at_once,
            ),
        )
        order = sorted(found.values(), key=lambda one: int(one.request_id.rpartition("_")[2]))
        yield from (one.generated_tokens for one in order)

    ways = {
        THEIRS[0]: lambda prompts, _: by_batches(prompts, 1),
        THEIRS[1]: by_batches,
        THEIRS[2]: by_continuous_batching,
    }

    def answer(asked: list[str], at_once: int) -> Answers:
        prompts = [tokenizer.render([{"role": "user", "content": q}]) for q in asked]
        written = [cut(ids) for ids in ways[side](prompts, at_once)]
        # The end token is written too.
        return [tokenizer.decode(ids) for ids in written], sum(len(ids) + 1 for ids in written)

    return answer


PAGE = 32  # tokens of a block: less waste than its default of 256, at these lengths


# --- what is told ------------------------------------------------------------------------


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown, what was promised, and why arbitrage gains what it gains."""
    found = {(row["side"], row["at_once"]): row for row in rows}
    levels = sorted({row["at_once"] for row in rows})
    body = []
    for row in rows:
        alone = found[row["side"], levels[0]]
        grows = row["questions_per_second"] / alone["questions_per_second"]
        body.append(
            [
                row["side"],
                row["at_once"],
                row["questions_per_second"],
                row["tokens_per_second"],
                f"{grows:.1f} ×",
                f"{row['solved']:.0%}",
                f"{row['peak_mib']:.0f}",
            ]
        )
    heads = ["side", "at once", "questions/s", "tokens/s", "grows", "solved", "peak MiB"]
    return [*table(heads, body), "", *(f"- {line}" for line in _told(found, levels))]


def _told(found: dict[tuple[str, int], dict[str, Any]], levels: list[int]) -> Iterator[str]:
    def rate(side: str, at_once: int) -> float:
        return float(found[side, at_once]["tokens_per_second"])

    def ratio(a: tuple[str, int], b: tuple[str, int]) -> str:
        rates = [found[key]["questions_per_second"] for key in (a, b)]
        return f"{rates[0] / rates[1]:.2f} ×"

    few, many = levels[0], 32 if 32 in levels else levels[-1]
    target, draft = "target only", "draft only"
    yield (
        f"Target only, {many} at once against {few}: {ratio((target, many), (target, few))} "
        "(promise: 6)."
    )
    yield (
        f"Target only against continuous batching, {many} at once: "
        f"{ratio((target, many), (THEIRS[2], many))} (promise: 2)."
    )
    if 64 in levels:
        yield f"Target only, 64 at once against {many}: {ratio((target, 64), (target, many))} (1)."
    cheaper = {n: rate(draft, n) / rate(target, n) for n in (few, many)}
    solved_by = {side: found[side, many]["solved"] for side in ("arbitrage", target)}
    yield (
        f"Arbitrage against target only: {ratio(('arbitrage', few), (target, few))} at {few} at "
        f"once, {ratio(('arbitrage', many), (target, many))} at {many} (solved: "
        f"{solved_by['arbitrage']:.0%} and {solved_by[target]:.0%}). Batching makes target "
        f"tokens {rate(target, many) / rate(target, few):.1f} times cheaper, draft tokens "
        f"{rate(draft, many) / rate(draft, few):.1f} times: a target token costs as much as "
        f"{cheaper[few]:.1f} draft tokens at {few} and {cheaper[many]:.1f} at {many}. The "
        "target's own batches are small in the loop, where few steps are escalated at a time, so "
        "its tokens there cost more than in a batch of all."
    )


if __name__ == "__main__":
    print(
        json.dumps(
            one_side(sys.argv[1], [int(n) for n in sys.argv[2].split(",")], float(sys.argv[3]))
        )
    )
