"""Whoever stops waiting stops the models too: within a token, and the slot is free again."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, Policy
from langgraph_arbitrage.engine import GenerateRequest, RequestHandle
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import EngineClosedError
from langgraph_arbitrage.loop.engine_calls import CancelScope
from tiny import QUESTIONS, generate, pair, prompt

LONG = 900  # tokens that an answer would have if nobody stopped it
SOON = 60  # far fewer
BY_ROLE = {"draft": (AlwaysDraft(), 2), "target": (AlwaysTarget(), 3)}


@pytest.fixture(params=BY_ROLE)
def long(
    request: pytest.FixtureRequest, schedulers: list[Scheduler], fed: Counter[int]
) -> tuple[ChatArbitrage, Callable[[], int]]:
    """A chat model that goes on for long, and how many tokens were fed."""
    policy, layers = BY_ROLE[request.param]
    llm = loaded(policy, request)
    fed.clear()
    return llm, lambda: fed[layers]


def loaded(policy: Policy, request: pytest.FixtureRequest) -> ChatArbitrage:
    llm = ChatArbitrage(
        # max_slots of its own: no engine of another test, made before this one could look in
        **pair(endless=True, words=True),
        router=policy,
        separator="\n",
        max_tokens=LONG,
        max_steps=LONG,
        max_step_tokens=LONG,
        max_slots=61,
    )
    llm.invoke("Warm up.", max_tokens=1)
    request.addfinalizer(llm.close)
    return llm


def assert_idle(schedulers: list[Scheduler]) -> None:
    """Soon no row is left and no slot is held."""
    for _ in range(2000):
        if not any(
            s.busy or any(slot.busy for slot in getattr(s.runner.cache, "slots", []))
            for s in schedulers
        ):
            return
        time.sleep(0.005)
    raise AssertionError("a row goes on though nobody waits for it")


async def reached(fed: Callable[[], int], tokens: int) -> None:
    """Wait until so many tokens were fed."""
    while fed() < tokens:  # noqa: ASYNC110 - counted on another thread
        await asyncio.sleep(0.001)


def test_closing_a_stream_stops_the_model(
    long: tuple[ChatArbitrage, Callable[[], int]], schedulers: list[Scheduler]
) -> None:
    llm, fed = long
    stream = llm.stream(QUESTIONS[0])
    next(chunk for chunk in stream if chunk.text)
    stream.close()
    assert_idle(schedulers)
    assert fed() < LONG / 2


async def test_closing_an_async_stream_stops_the_model(
    long: tuple[ChatArbitrage, Callable[[], int]], schedulers: list[Scheduler]
) -> None:
    llm, fed = long
    stream = llm.astream(QUESTIONS[0])
    while not (await anext(stream)).text:
        pass
    await stream.aclose()
    assert_idle(schedulers)
    assert fed() < LONG / 2


async def test_cancelling_an_ainvoke_stops_the_model(
    long: tuple[ChatArbitrage, Callable[[], int]], schedulers: list[Scheduler]
) -> None:
    llm, fed = long
    answer = asyncio.create_task(llm.ainvoke(QUESTIONS[0]))
    while fed() < SOON:  # noqa: ASYNC110 - a model tells no event
        await asyncio.sleep(0.001)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert_idle(schedulers)
    assert fed() < LONG / 2


async def test_a_timeout_stops_the_model(
    long: tuple[ChatArbitrage, Callable[[], int]], schedulers: list[Scheduler]
) -> None:
    llm, fed = long
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(llm.ainvoke(QUESTIONS[0]), 0.05)
    assert_idle(schedulers)
    assert fed() < LONG / 2


async def test_cancelling_one_leaves_the_others_alone(
    long: tuple[ChatArbitrage, Callable[[], int]], schedulers: list[Scheduler]
) -> None:
    llm, fed = long
    want = (await llm.ainvoke(QUESTIONS[1], max_tokens=80)).text
    lost = [asyncio.create_task(llm.ainvoke(q)) for q in QUESTIONS[2:5]]
    other = asyncio.create_task(llm.ainvoke(QUESTIONS[1], max_tokens=80))
    start = fed()
    while fed() - start < 2 * SOON:  # noqa: ASYNC110 - a model tells no event
        await asyncio.sleep(0.001)
    for task in lost:
        task.cancel()
    assert (await other).text == want
    assert_idle(schedulers)


async def test_a_cancelled_conversation_can_be_asked_again(
    long: tuple[ChatArbitrage, Callable[[], int]],
) -> None:
    llm, fed = long
    answer = asyncio.create_task(llm.ainvoke(QUESTIONS[0]))
    while fed() < SOON:  # noqa: ASYNC110 - a model tells no event
        await asyncio.sleep(0.001)
    answer.cancel()
    again = (await llm.ainvoke(QUESTIONS[0], max_tokens=30)).text
    role = "draft" if llm.policy == AlwaysDraft() else "target"
    path = pair(endless=True, words=True)[role]
    ids = generate(path, prompt(QUESTIONS[0]), 30)
    tokenizer = llm._models.tokenizer("target")
    assert again == tokenizer.decode(ids).rstrip("\n")


def test_a_scope_cancels_tickets_that_resolve_at_once() -> None:
    """Resolving takes a ticket out of the scope, on another thread, while it cancels the rest."""

    class Eager(RequestHandle):
        def cancel(self) -> None:
            super().cancel()
            self.fail()

    scope = CancelScope()
    tickets = [Eager(GenerateRequest([1], 1)) for _ in range(4)]
    for ticket in tickets:
        scope.watch(ticket)
    scope.cancel()
    assert all(t.cancelled for t in tickets)
    late = Eager(GenerateRequest([1], 1))
    scope.watch(late)
    assert late.cancelled


def test_closing_a_chat_model_while_it_writes_tells_its_caller(
    request: pytest.FixtureRequest,
) -> None:
    llm = loaded(AlwaysTarget(), request)
    stream = llm.stream(QUESTIONS[0])
    next(chunk for chunk in stream if chunk.text)
    llm.close()
    with pytest.raises(EngineClosedError, match=r"llama.* was closed"):
        list(stream)
