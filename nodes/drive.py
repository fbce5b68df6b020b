"""One body for sync and async: a node is a generator that yields calls and gets answers.

The body never waits. Two short drivers do, one on futures, one on the event loop; both cancel
what they wait for when they are interrupted.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.types import Overwrite

from langgraph_arbitrage.adoption import adopted
from langgraph_arbitrage.engine import Engine, GenerateRequest, RequestHandle, ScoreRequest
from langgraph_arbitrage.errors import AnswerTimeoutError, ArbitrageError, RequestCancelledError
from langgraph_arbitrage.models.pair import Models
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState

__all__ = [
    "Body",
    "Call",
    "CancelScope",
    "Deadline",
    "Edge",
    "Node",
    "answers",
    "answers_in_loop",
    "driven",
    "ended",
    "ended_in_loop",
]

_W = TypeVar("_W")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Call:
    """A request to an engine, and who hears of each token while it is written."""

    engine: Engine
    request: GenerateRequest | ScoreRequest
    on_token: Callable[[int], None] | None = None
    """Called in the node's own thread or task."""
    continues: bool = True
    """It goes on with an answer that was begun: never refused for a full queue."""


Body = Generator[Sequence[Call], Sequence[Any], dict[str, Any]]
"""Yields calls, is sent their answers in order, returns the state's update."""


class CancelScope:
    """Cancels the model work of a run from outside, as when its stream is closed."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        """When the run began, as its `timeout` is counted."""
        self.cancelled = False
        self._tickets: set[RequestHandle[Any]] = set()
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Stop all model work of the run within a token; what follows fails at once."""
        with self._lock:
            self.cancelled = True
            for ticket in tuple(self._tickets):  # resolving one takes it out, at any moment
                ticket.cancel()

    def watch(self, ticket: RequestHandle[Any]) -> None:
        """Cancel this ticket too, as long as it is not resolved."""
        with self._lock:
            self._tickets.add(ticket)
            if self.cancelled:
                ticket.cancel()
        ticket.future.add_done_callback(lambda _: self._tickets.discard(ticket))


@dataclass(frozen=True)
class Deadline:
    """When an answer's `timeout` is over, by the monotonic clock."""

    timeout: float
    end: float

    @classmethod
    def of(cls, run: Run, state: ArbitrageState) -> Deadline | None:
        """The run's, or None where it has no `timeout`."""
        left = run.time_left(state)
        if left is None or run.limits.timeout is None:
            return None
        return cls(run.limits.timeout, time.monotonic() + left)

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self.end - time.monotonic())

    def missed(self) -> AnswerTimeoutError:
        """What an answer raises that was not there by then."""
        return AnswerTimeoutError(
            f"the answer was not there within timeout={self.timeout:g} seconds, and the models "
            "have been told to stop. Set a longer timeout or a lower max_tokens, or ask fewer "
            "questions at a time."
        )


class Node(Runnable[ArbitrageState, dict[str, Any]]):
    """A graph node from a body, for `invoke` and `ainvoke` alike.

    A bare `Runnable`: a `RunnableLambda` would start a traced run of its own at every call.
    """

    def __init__(self, body: Callable[[ArbitrageState, Run], Body], models: Models) -> None:
        self.name = body.__name__
        self._body = body
        self._models = models

    def invoke(
        self,
        input: ArbitrageState,  # noqa: A002 - a Runnable's name for it
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the body, waiting on futures."""
        run = Run.of_node(self._models)
        deadline = Deadline.of(run, input)
        return ended(self._begun(input, run), lambda calls: answers(calls, run.cancel, deadline))

    async def ainvoke(
        self,
        input: ArbitrageState,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the body, waiting on the event loop."""
        run = Run.of_node(self._models)
        deadline = Deadline.of(run, input)
        if not self._models.ready:
            await asyncio.to_thread(self._models.prepare, run.policy)
        return await driven(self._begun(input, run), run.cancel, deadline)

    def _begun(self, state: ArbitrageState, run: Run) -> Body:
        """The body, on a state that the run's models can go on with."""
        state, update = adopted(state, run)
        more = yield from self._body(state, run)
        if "steps" in update and isinstance(added := more.get("steps"), list):
            more["steps"] = Overwrite([*update["steps"].value, *added])
        return {**update, **more}


class Edge(Runnable[ArbitrageState, str]):
    """A conditional edge: the name of the node that follows. As `Node`, no traced run."""

    def __init__(self, choose: Callable[[ArbitrageState], str]) -> None:
        self.name = choose.__name__
        self._choose = choose

    def invoke(
        self,
        input: ArbitrageState,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> str:
        """Choose, with LangGraph's runtime there: it runs edges outside of the node's context."""
        token = var_child_runnable_config.set(config)
        try:
            return self._choose(input)
        finally:
            var_child_runnable_config.reset(token)

    async def ainvoke(
        self,
        input: ArbitrageState,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> str:
        """The same; it waits for nothing."""
        return self.invoke(input, config)


async def driven(
    body: Body, cancel: CancelScope | None = None, deadline: Deadline | None = None
) -> dict[str, Any]:
    """Run a body, waiting on the event loop; the state's update."""
    return await ended_in_loop(body, lambda calls: answers_in_loop(calls, cancel, deadline))


def ended(body: Generator[_W, Any, _R], tell: Callable[[_W], Any]) -> _R:
    """Run a body to its end, telling it what it wants; an error of ours is raised at its yield."""
    try:
        wanted = next(body)
        while True:
            try:
                found = tell(wanted)
            except ArbitrageError as error:
                wanted = body.throw(error)
            else:
                wanted = body.send(found)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def ended_in_loop(
    body: Generator[_W, Any, _R], tell: Callable[[_W], Coroutine[Any, Any, Any]]
) -> _R:
    """The same, waiting on the event loop."""
    try:
        wanted = next(body)
        while True:
            try:
                found = await tell(wanted)
            except ArbitrageError as error:
                wanted = body.throw(error)
            else:
                wanted = body.send(found)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _submit(
    call: Call, cancel: CancelScope | None, put: Callable[[int | None], None]
) -> RequestHandle[Any]:
    """Hand a call to its engine; `put` gets its tokens, and None once it is resolved."""
    listening = call.on_token is not None
    ticket: RequestHandle[Any] = call.engine.submit(
        call.request, put if listening else None, continues=call.continues
    )
    if cancel is not None:
        cancel.watch(ticket)
    if listening:
        ticket.future.add_done_callback(lambda _: put(None))
    return ticket


def answers(
    calls: Sequence[Call], cancel: CancelScope | None = None, deadline: Deadline | None = None
) -> list[Any]:
    """The engines' answers, waited for in this thread; an interrupt cancels the calls."""
    tickets: list[RequestHandle[Any]] = []
    tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    try:
        tickets.extend(_submit(call, cancel, tokens.put) for call in calls)
        for call in calls:
            if call.on_token is not None:
                while (token := tokens.get(timeout=_left(deadline))) is not None:
                    call.on_token(token)
        return [ticket.result(_left(deadline)) for ticket in tickets]
    except (TimeoutError, queue.Empty):
        _cancel(tickets)
        raise _missed(deadline) from None
    except BaseException:
        _cancel(tickets)
        raise


async def answers_in_loop(
    calls: Sequence[Call], cancel: CancelScope | None = None, deadline: Deadline | None = None
) -> list[Any]:
    """The engines' answers, waited for on the event loop; being cancelled cancels the calls."""
    loop = asyncio.get_running_loop()
    tickets: list[RequestHandle[Any]] = []
    tokens: asyncio.Queue[int | None] = asyncio.Queue()

    def put(token: int | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(tokens.put_nowait, token)

    try:
        async with asyncio.timeout(_left(deadline)):
            tickets.extend(_submit(call, cancel, put) for call in calls)
            for call in calls:
                if call.on_token is not None:
                    while (token := await tokens.get()) is not None:
                        call.on_token(token)
            return [await asyncio.wrap_future(ticket.future) for ticket in tickets]
    except TimeoutError:
        _cancel(tickets)
        raise _missed(deadline) from None
    except RequestCancelledError:
        if cancel is not None and cancel.cancelled:
            raise asyncio.CancelledError from None
        raise
    except BaseException:
        _cancel(tickets)
        raise


def _left(deadline: Deadline | None) -> float | None:
    return None if deadline is None else deadline.left


def _missed(deadline: Deadline | None) -> TimeoutError:
    return TimeoutError() if deadline is None else deadline.missed()


def _cancel(tickets: Sequence[RequestHandle[Any]]) -> None:
    for ticket in tickets:
        ticket.cancel()
