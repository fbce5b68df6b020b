"""Seconds of a question by the default router, with and without the draft's guesses.

The settings of `speculate` take turns in one process, over the same held-out embedded problems; the
texts are compared.

    python benchmarks/speculation.py [--questions 60] [--turns 5] [--at-a-time 1 8]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time

from langchain_core.messages import AIMessage

from langgraph_arbitrage import ChatArbitrage
from measure import questions, table

WAYS = ("off", "on", "auto")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    asked, llm, rows = questions(options.questions), ChatArbitrage(), []
    for at_a_time in options.at_a_time:
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        told: dict[str, list[AIMessage]] = {}
        asyncio.run(answered(llm, asked, "auto", at_a_time))  # loads and warms up
        for turn in range(options.turns):
            for way in random.Random(turn).sample(WAYS, len(WAYS)):
                start = time.perf_counter()
                told[way] = asyncio.run(answered(llm, asked, way, at_a_time))
                seconds[way].append((time.perf_counter() - start) / len(asked))
        for way in WAYS:
            figures = [m.response_metadata["arbitrage"] for m in told[way]]
            same = sum(a.text == b.text for a, b in zip(told[way], told["off"], strict=True))
            ms = [1e3 * s for s in seconds[way]]
            counts = [
                sum(f[f"{name}_tokens"] for f in figures)
                for name in ("speculated", "speculated_kept")
            ]
            rows.append([at_a_time, way, statistics.median(ms), min(ms), max(ms), *counts, same])
    heads = ["at a time", "speculate", "ms a question, median", "least", "most"]
    print("\n".join(table([*heads, "guessed", "kept", "same texts"], rows)))


async def answered(
    llm: ChatArbitrage, asked: list[str], way: str, at_a_time: int
) -> list[AIMessage]:
    """All answers, so many at a time."""
    if at_a_time == 1:
        return [llm.invoke(question, speculate=way) for question in asked]
    gate = asyncio.Semaphore(at_a_time)

    async def one(question: str) -> AIMessage:
        async with gate:
            return await llm.ainvoke(question, speculate=way)

    return await asyncio.gather(*(one(question) for question in asked))


if __name__ == "__main__":
    main()
