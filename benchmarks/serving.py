"""Many streaming clients against `arbitrage serve`, some of which leave.

    python benchmarks/serving.py --clients 64 --seconds 120

A server in a process of its own, on the embedded models. Each client asks a held-out problem, reads
the stream, now and then hangs up in the middle, and asks on. Every request has to end, and at the
end the server has to have no request left and to answer as many at a time as at the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from langgraph_arbitrage import embedded
from measure import store

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT = Path(__file__).parent / "results" / "serving.json"
LEAVES = 0.2  # of the requests
LONGEST = 60.0  # seconds within which a request has to end


@dataclass
class Told:
    """What the clients met."""

    ended: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    """Seconds to the first text."""
    whole: list[float] = field(default_factory=list)
    """Seconds to the end of the answer."""
    right: int = 0


@contextmanager
def server(*options: str) -> Iterator[str]:
    """`arbitrage serve` on a free port; its base URL."""
    command = [sys.executable, "-m", "langgraph_arbitrage.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("serving "):
                break
        yield line.rsplit(" ", 1)[1].strip()
    finally:
        process.terminate()
        process.wait()


async def client(number: int, http: httpx.AsyncClient, end: float, told: Told) -> None:
    """Ask on until the time is over, at least once."""
    rng = random.Random(number)
    problems = embedded.problems(10_000, seed=1000 + number)
    for problem in problems:
        leaves = rng.randrange(1, 12) if rng.random() < LEAVES else None
        try:
            await asyncio.wait_for(ask(http, problem, leaves, told), LONGEST)
        except TimeoutError:
            told.ended["never"] += 1
        except httpx.HTTPError as error:
            told.ended[type(error).__name__] += 1
        if time.monotonic() > end:
            return


async def ask(http: httpx.AsyncClient, problem: Any, leaves: int | None, told: Told) -> None:
    """One request; `leaves` after so many pieces of text."""
    body = {
        "messages": [{"role": "user", "content": problem.question}],
        "stream": True,
        "max_tokens": 300,
    }
    start, text, pieces, reason = time.perf_counter(), "", 0, None
    async with http.stream("POST", "/chat/completions", json=body) as response:
        if response.status_code != 200:
            told.ended[str(response.status_code)] += 1
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                told.ended["error"] += 1
                return
            (choice,) = chunk["choices"]
            reason = choice["finish_reason"] or reason
            if new := choice["delta"].get("content"):
                if not pieces:
                    told.first.append(time.perf_counter() - start)
                text, pieces = text + new, pieces + 1
                if pieces == leaves:
                    told.ended["left"] += 1
                    return
    told.ended[reason or "broke off"] += 1
    told.whole.append(time.perf_counter() - start)
    told.right += embedded.check_answer(problem, text)


async def soak(url: str, clients: int, seconds: float) -> Told:
    """All clients, for so long."""
    told = Told()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=LONGEST, limits=limits) as http:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(n, http, end, told) for n in range(clients)))
        # Nothing is left over: all clients at once are answered still.
        before = told.ended.total()
        await asyncio.gather(*(client(9000 + n, http, 0.0, told) for n in range(clients)))
        assert told.ended.total() == before + clients
    return told


def percentiles(values: list[float]) -> dict[str, float]:
    """Mean and percentiles, in seconds."""
    cuts = statistics.quantiles(values, n=100)
    chosen = {"p50": cuts[49], "p90": cuts[89], "p95": cuts[94], "p99": cuts[98]}
    return {k: round(v, 3) for k, v in {"mean": statistics.fmean(values), **chosen}.items()}


def measure(clients: int, seconds: float) -> dict[str, Any]:
    """The figures of a soak."""
    with server() as url:
        asyncio.run(soak(url, 4, 2.0))  # the models load
        told = asyncio.run(soak(url, clients, seconds))
        health, patience = {"requests": -1}, time.monotonic() + 2
        while health["requests"] != 0 and time.monotonic() < patience:
            health = httpx.get(url.removesuffix("v1") + "health").json()
    assert health["requests"] == 0, health
    assert not told.ended.keys() - {"stop", "length", "left"}, told.ended
    answers = len(told.whole)
    return {
        "clients": clients,
        "seconds": seconds,
        "cpus": os.cpu_count(),
        "ended": dict(told.ended),
        "answers_per_second": round(answers / seconds, 2),
        "right": round(told.right / answers, 3),
        "first_text_seconds": percentiles(told.first),
        "answer_seconds": percentiles(told.whole),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    args = parser.parse_args()
    store(measure(args.clients, args.seconds), args.output)


if __name__ == "__main__":
    main()
