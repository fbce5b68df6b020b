"""Load-test `arbitrage serve` with streaming clients, some of which disconnect.

    python benchmarks/serving.py --clients 64 --seconds 120

The server runs the embedded models in a process of its own. Each client repeatedly sends a held-out
problem and reads the stream; it cancels some requests midway. The benchmark fails unless every
request ends, the server has no open requests afterwards, and it then still answers all clients at
the same time.
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

from common import RESULTS, save_json
from langgraph_arbitrage import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

DISCONNECT_RATE = 0.2
"""Fraction of the requests that the client cancels."""
TIMEOUT = 60.0
"""Maximum seconds per request."""


@dataclass
class ClientStatistics:
    """Outcomes and latencies of all requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of requests by finish reason, error or disconnection."""
    first_text: list[float] = field(default_factory=list)
    """Seconds to the first text."""
    complete: list[float] = field(default_factory=list)
    """Seconds to the end of the answer."""
    right: int = 0
    """Number of right answers."""


@contextmanager
def server(*options: str) -> Iterator[str]:
    """Run `arbitrage serve` on a free port; yields its base URL."""
    command = [sys.executable, "-m", "langgraph_arbitrage.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("Serving "):
                break
        yield line.rsplit(" ", 1)[1].strip()
    finally:
        process.terminate()
        process.wait()


async def client(
    number: int, http: httpx.AsyncClient, end: float, counts: ClientStatistics
) -> None:
    """Send requests one after another until the time `end`, at least one."""
    rng = random.Random(number)
    problems = embedded.problems(10_000, seed=1000 + number)
    for problem in problems:
        max_pieces = rng.randrange(1, 12) if rng.random() < DISCONNECT_RATE else None
        try:
            await asyncio.wait_for(send(http, problem, max_pieces, counts), TIMEOUT)
        except TimeoutError:
            counts.outcomes["timed out"] += 1
        except httpx.HTTPError as error:
            counts.outcomes[type(error).__name__] += 1
        if time.monotonic() > end:
            return


async def send(
    http: httpx.AsyncClient, problem: Any, max_pieces: int | None, counts: ClientStatistics
) -> None:
    """Send one streaming request and record its outcome.

    Args:
        http: The HTTP client.
        problem: The problem to solve.
        max_pieces: Disconnect after this number of pieces of text; None reads the whole answer.
        counts: Receives the outcome.
    """
    body = {
        "messages": [{"role": "user", "content": problem.question}],
        "stream": True,
        "max_tokens": 300,
    }
    start, text, pieces, reason = time.perf_counter(), "", 0, None
    async with http.stream("POST", "/chat/completions", json=body) as response:
        if response.status_code != 200:
            counts.outcomes[str(response.status_code)] += 1
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                counts.outcomes["error"] += 1
                return
            (choice,) = chunk["choices"]
            reason = choice["finish_reason"] or reason
            if new := choice["delta"].get("content"):
                if not pieces:
                    counts.first_text.append(time.perf_counter() - start)
                text, pieces = text + new, pieces + 1
                if pieces == max_pieces:
                    counts.outcomes["disconnected"] += 1
                    return
    counts.outcomes[reason or "incomplete"] += 1
    counts.complete.append(time.perf_counter() - start)
    counts.right += embedded.check_answer(problem, text)


async def run_clients(url: str, clients: int, seconds: float) -> ClientStatistics:
    """Run all clients concurrently for `seconds`."""
    counts = ClientStatistics()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as http:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(n, http, end, counts) for n in range(clients)))
        # Cancelled requests must not occupy slots: the server still answers all clients at once.
        before = counts.outcomes.total()
        await asyncio.gather(*(client(9000 + n, http, 0.0, counts) for n in range(clients)))
        assert counts.outcomes.total() == before + clients
    return counts


def percentiles(values: list[float]) -> dict[str, float]:
    """Compute mean and percentiles, rounded to milliseconds."""
    cuts = statistics.quantiles(values, n=100)
    summary = {"mean": statistics.fmean(values)}
    summary |= {"p50": cuts[49], "p90": cuts[89], "p95": cuts[94], "p99": cuts[98]}
    return {name: round(value, 3) for name, value in summary.items()}


def measure(clients: int, seconds: float) -> dict[str, Any]:
    """Start a server, run the clients and check that no request remains open."""
    with server() as url:
        asyncio.run(run_clients(url, 4, 2.0))  # loads the models
        counts = asyncio.run(run_clients(url, clients, seconds))
        health, deadline = {"requests": -1}, time.monotonic() + 2
        while health["requests"] != 0 and time.monotonic() < deadline:
            health = httpx.get(url.removesuffix("v1") + "health").json()
    assert health["requests"] == 0, health
    assert not counts.outcomes.keys() - {"stop", "length", "disconnected"}, counts.outcomes
    answers = len(counts.complete)
    return {
        "clients": clients,
        "seconds": seconds,
        "cpus": os.cpu_count(),
        "outcomes": dict(counts.outcomes),
        "answers_per_second": round(answers / seconds, 2),
        "right": round(counts.right / answers, 3),
        "first_text_seconds": percentiles(counts.first_text),
        "answer_seconds": percentiles(counts.complete),
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "serving.json")
    args = parser.parse_args()
    save_json(measure(args.clients, args.seconds), args.output)


if __name__ == "__main__":
    main()
