"""Everything at once for a while: every call ends, no slot leaks, survivors answer as in quiet."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from langgraph_arbitrage import ChatArbitrage, DraftConfidence
from langgraph_arbitrage.engine.model_runner import ModelRunner
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.sequence import Batch
from langgraph_arbitrage.errors import AnswerTimeoutError, EngineError
from tiny import QUESTIONS, pair

CALLERS = 12
QUIET: dict[tuple[str, int, float], str] = {}
"""Answers of a quiet run, by question, token limit and temperature."""
LENGTHS = (1, 6, 25)


class InjectedError(RuntimeError):
    pass


class Faults:
    """Has a forward of some model fail now and then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, every: float) -> None:
        self.on = False
        self.made = 0
        next_, lock, forward = 0.0, threading.Lock(), ModelRunner.forward

        def failing(runner: ModelRunner, batch: Batch) -> Any:
            nonlocal next_
            with lock:
                due = self.on and time.monotonic() > next_
                if due:
                    next_ = time.monotonic() + every
                    self.made += 1
            if due:
                raise InjectedError("injected")
            return forward(runner, batch)

        monkeypatch.setattr(ModelRunner, "forward", failing)


async def one_call(llm: ChatArbitrage, rng: random.Random, ended: Counter[str]) -> None:
    """A random call with a random fate; how it ended is counted, what it answered is checked."""
    asked = rng.choice(QUESTIONS), rng.choice(LENGTHS), rng.choice((0.0, 0.8))
    options: dict[str, Any] = {"max_tokens": asked[1], "temperature": asked[2], "seed": 5}
    fate = rng.choice(["whole", "whole", "stream", "thread", "cancel", "close", "timeout"])
    try:
        match fate:
            case "whole":
                text = (await llm.ainvoke(asked[0], **options)).text
            case "thread":
                text = (await asyncio.to_thread(llm.invoke, asked[0], **options)).text
            case "stream":
                text = "".join([c.text async for c in llm.astream(asked[0], **options)])
            case "cancel":
                task = asyncio.create_task(llm.ainvoke(asked[0], **options | {"max_tokens": 400}))
                await asyncio.sleep(rng.random() * 0.05)
                task.cancel()
                await asyncio.wait([task])
                ended["cancelled" if task.cancelled() else "failed"] += 1
                return
            case "close":
                stream = llm.astream(asked[0], **options | {"max_tokens": 400})
                async for chunk in stream:
                    if chunk.text:
                        break
                await stream.aclose()
                ended["closed"] += 1
                return
            case "timeout":
                limit = rng.random() * 0.05 + 0.001
                await llm.ainvoke(asked[0], **options | {"max_tokens": 400, "timeout": limit})
                ended["in time"] += 1
                return
    except AnswerTimeoutError as error:
        ended["too late" if fate == "timeout" else repr(error)] += 1
    except EngineError as error:
        ended["failed" if "InjectedError: injected" in str(error) else repr(error)] += 1
    else:
        assert text == QUIET[asked]
        ended["answered"] += 1


async def soak(llm: ChatArbitrage, seconds: float, seed: int) -> Counter[str]:
    ended: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def caller(n: int) -> None:
        rng = random.Random(f"{seed}/{n}")
        while time.monotonic() < until:
            await asyncio.wait_for(one_call(llm, rng, ended), 60)
            ended["calls"] += 1

    await asyncio.gather(*(caller(n) for n in range(CALLERS)))
    return ended


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(3, id="short"), pytest.param(300, id="five-minutes", marks=pytest.mark.slow)],
)
async def test_every_call_ends_and_survivors_answer_as_in_a_quiet_run(
    seconds: float, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch, every=max(1.5, seconds / 60))
    llm = ChatArbitrage(
        **pair(endless=True, words=True),
        router=DraftConfidence(0.4),
        separator=("\n", "."),
        max_slots=7,  # fewer than callers: they wait for slots too
    )
    for question in QUESTIONS:
        for length in LENGTHS:
            for temperature in (0.0, 0.8):
                QUIET[question, length, temperature] = llm.invoke(
                    question, max_tokens=length, temperature=temperature, seed=5
                ).text
    faults.on = True
    ended = await soak(llm, seconds, seed=1)
    faults.on = False

    for _ in range(400):
        if not any(s.busy for s in schedulers):
            break
        await asyncio.sleep(0.01)
    slots = [s.runner.cache.slots for s in schedulers]  # type: ignore[attr-defined]
    assert not any(s.busy for s in schedulers)
    assert not any(slot.busy for held in slots for slot in held)
    assert max(map(len, slots)) <= 7
    for engine in llm._models._engines.values():
        assert engine._started._open == 0
    text = (await llm.ainvoke(QUESTIONS[0], max_tokens=25, seed=5)).text
    assert text == QUIET[QUESTIONS[0], 25, 0.0]
    calls, known = ended.pop("calls"), {"answered", "cancelled", "closed", "too late", "failed"}
    assert known <= set(ended) <= known | {"in time"}
    assert calls == ended.total()
    assert faults.made >= 2
    llm.close()
