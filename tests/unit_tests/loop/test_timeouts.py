"""A time limit ends an answer with an error that says what to do, and the models stop."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ChatArbitrage,
    Context,
    DraftConfidence,
    Policy,
    Random,
    create_arbitrage_graph,
)
from langgraph_arbitrage.engine import Engine
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import AnswerTimeoutError, EngineBusyError
from langgraph_arbitrage.loop.engine_calls import CancelScope
from tiny import QUESTIONS, pair

LONG = 900  # tokens: about a second
SHORT = 0.1
SETTINGS: dict[str, Any] = {
    **pair(endless=True, words=True),
    "router": AlwaysTarget(),
    "separator": "\x00",
    "max_tokens": LONG,
    "max_step_tokens": LONG,
    "max_slots": 60,  # its own: no engine of another test, made before this one could look in
}


@pytest.fixture
def llm(schedulers: list[Scheduler]) -> Iterator[ChatArbitrage]:
    llm = ChatArbitrage(**SETTINGS)
    llm.invoke("Warm up.", max_tokens=1)
    yield llm
    llm.close()


def assert_idle(schedulers: list[Scheduler]) -> None:
    for _ in range(2000):
        if not any(
            s.busy or any(slot.busy for slot in getattr(s.runner.cache, "slots", []))
            for s in schedulers
        ):
            return
        time.sleep(0.005)
    raise AssertionError("a row goes on though its time is over")


async def ask(llm: ChatArbitrage, how: str, **options: Any) -> Any:
    match how:
        case "invoke":
            return await asyncio.to_thread(llm.invoke, QUESTIONS[0], **options)
        case "ainvoke":
            return await llm.ainvoke(QUESTIONS[0], **options)
        case "stream":
            return await asyncio.to_thread(lambda: list(llm.stream(QUESTIONS[0], **options)))
    return [chunk async for chunk in llm.astream(QUESTIONS[0], **options)]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_answer_that_takes_too_long_ends_and_its_row_stops(
    how: str, llm: ChatArbitrage, schedulers: list[Scheduler]
) -> None:
    start = time.perf_counter()
    with pytest.raises(AnswerTimeoutError, match=r"within timeout=0\.1 seconds.*max_tokens"):
        await ask(llm, how, timeout=SHORT)
    assert time.perf_counter() - start < 5 * SHORT
    assert_idle(schedulers)
    assert (await ask(llm, "ainvoke", max_tokens=5)).text


async def test_the_limit_counts_all_steps_together(llm: ChatArbitrage) -> None:
    """Of many short steps none takes long."""
    llm = ChatArbitrage(**SETTINGS | {"max_step_tokens": 20})
    with pytest.raises(AnswerTimeoutError):
        await ask(llm, "ainvoke", timeout=2 * SHORT)
    with pytest.raises(AnswerTimeoutError):
        await ask(llm, "invoke", timeout=2 * SHORT)
    llm.close()


def test_waiting_for_a_slot_counts(schedulers: list[Scheduler]) -> None:
    llm = ChatArbitrage(**SETTINGS | {"max_slots": 1})
    llm.invoke("Warm up.", max_tokens=1)
    stream = llm.stream(QUESTIONS[0])
    next(chunk for chunk in stream if chunk.text)
    with pytest.raises(AnswerTimeoutError):
        llm.invoke(QUESTIONS[1], max_tokens=1, timeout=SHORT)
    stream.close()
    assert_idle(schedulers)
    llm.close()


def test_an_answer_within_its_limit_is_as_without(llm: ChatArbitrage) -> None:
    want = llm.invoke(QUESTIONS[0], max_tokens=20).text
    assert llm.invoke(QUESTIONS[0], max_tokens=20, timeout=60).text == want


@pytest.mark.parametrize("scope", [None, CancelScope])
async def test_a_graph_of_ones_own_has_the_limit_too(
    scope: Callable[[], Any] | None, schedulers: list[Scheduler]
) -> None:
    graph = create_arbitrage_graph(**SETTINGS | {"timeout": SHORT, "max_step_tokens": 30}).compile()
    start = {"messages": [("user", QUESTIONS[0])]}
    limits = {"recursion_limit": 4 * LONG}
    graph.invoke(start, limits, context=Context(max_tokens=1, timeout=60))
    for run in (graph.ainvoke, lambda *a, **k: asyncio.to_thread(graph.invoke, *a, **k)):
        context = Context(cancel=scope and scope())
        with pytest.raises(AnswerTimeoutError):
            await run(start, limits, context=context)
    assert_idle(schedulers)


async def test_one_who_is_too_slow_leaves_the_others_alone(
    llm: ChatArbitrage, schedulers: list[Scheduler]
) -> None:
    wanted = [(await llm.ainvoke(q, max_tokens=40)).text for q in QUESTIONS[:4]]
    slow = [asyncio.create_task(llm.ainvoke(q, timeout=SHORT)) for q in QUESTIONS[4:8]]
    found = await asyncio.gather(*(llm.ainvoke(q, max_tokens=40) for q in QUESTIONS[:4]))
    assert [m.text for m in found] == wanted
    ended = await asyncio.gather(*slow, return_exceptions=True)
    assert all(isinstance(e, AnswerTimeoutError) for e in ended)
    assert_idle(schedulers)


# --- other ways to be stopped ------------------------------------------------------------


@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_ctrl_c_stops_the_model_within_its_step(
    how: str, llm: ChatArbitrage, schedulers: list[Scheduler]
) -> None:
    half = LONG // 2
    start = time.perf_counter()
    llm.invoke(QUESTIONS[0], max_tokens=half)
    whole = time.perf_counter() - start
    press = threading.Timer(whole / 8, os.kill, (os.getpid(), signal.SIGINT))
    press.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        list(getattr(llm, how)(QUESTIONS[1], max_tokens=half))
    assert time.perf_counter() - start < whole / 2
    assert_idle(schedulers)


async def test_a_sync_call_inside_a_running_loop_answers(llm: ChatArbitrage) -> None:
    want = (await llm.ainvoke(QUESTIONS[0], max_tokens=20)).text
    assert llm.invoke(QUESTIONS[0], max_tokens=20).text == want
    assert "".join(c.text for c in llm.stream(QUESTIONS[0], max_tokens=20)) == want


async def test_a_full_queue_refuses_another_answer(schedulers: list[Scheduler]) -> None:
    llm = ChatArbitrage(**SETTINGS | {"max_slots": 1, "max_queue": 1})
    await llm.ainvoke("Warm up.", max_tokens=1)
    stream = llm.astream(QUESTIONS[0])
    while not (await anext(stream)).text:
        pass
    waiting = asyncio.create_task(llm.ainvoke(QUESTIONS[1], max_tokens=20, max_step_tokens=5))
    while llm._models.engine("target")._started._open < 2:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)
    with pytest.raises(EngineBusyError, match=r"busy: 2 requests .*max_queue=1"):
        await llm.ainvoke(QUESTIONS[2])
    await stream.aclose()
    assert (await waiting).usage_metadata["output_tokens"] == 20
    llm.close()


@pytest.mark.parametrize("router", [AlwaysTarget(), AlwaysDraft(), Random(1.0)])
def test_only_the_first_step_of_an_answer_can_be_refused(
    router: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    continues, submit = [], Engine.submit

    def noting(self: Engine, *args: Any, **options: Any) -> Any:
        continues.append(options["continues"])
        return submit(self, *args, **options)

    monkeypatch.setattr(Engine, "submit", noting)
    llm = ChatArbitrage(**SETTINGS | {"router": router, "max_step_tokens": 5, "max_tokens": 15})
    llm.invoke(QUESTIONS[0])
    assert continues == [False] + [True] * (len(continues) - 1)
    assert len(continues) >= 3
    llm.close()


async def test_an_exact_answer_is_the_same_among_thirty_two_others() -> None:
    """Two models, steps and scores: `batch_invariant` holds through the whole loop."""
    llm = ChatArbitrage(
        **pair(endless=True, words=True),
        router=DraftConfidence(0.5),
        separator="\n",
        batch_invariant=True,
        temperature=0.9,
        max_tokens=12,
    )
    questions = [f"{q} {n}" for n in range(4) for q in QUESTIONS]

    def told(message: Any) -> Any:
        steps = message.response_metadata["arbitrage"]["steps"]
        return message.text, [(s["writer"], s["score"]) for s in steps]

    together = await llm.abatch(questions, seed=3)
    alone = [await llm.ainvoke(q, seed=3) for q in questions[::8]]
    assert [told(m) for m in together[::8]] == [told(m) for m in alone]
    llm.close()
