"""Requests to engines, for synchronous and asynchronous runs.

The body of a node is one coroutine for both. In a synchronous run its awaits block instead of
suspending, so `run_blocking` can complete it without an event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langgraph_arbitrage.engine import Engine, GenerateRequest, RequestHandle, ScoreRequest
from langgraph_arbitrage.errors import AnswerTimeoutError, RequestCancelledError

__all__ = ["CancelScope", "Deadline", "EngineCall", "run_blocking", "submit", "submit_async"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class EngineCall:
    """A request, the engine that serves it, and a listener for its tokens."""

    engine: Engine
    request: GenerateRequest | ScoreRequest
    on_token: Callable[[int], None] | None = None
    """Called in the caller's thread or task."""
    continues: bool = True
    """Whether the request continues an answer in progress. A full queue accepts such a request."""


class CancelScope:
    """Cancels the requests of a run, for example when its stream is closed."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        """Start of the run on the monotonic clock. The `timeout` counts from here."""
        self.cancelled = False
        self._handles: set[RequestHandle[Any]] = set()
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Cancel all requests of the run within one token. Later requests fail immediately."""
        with self._lock:
            self.cancelled = True
            for handle in tuple(self._handles):  # a resolved handle removes itself
                handle.cancel()

    def watch(self, handle: RequestHandle[Any]) -> None:
        """Include a request until it is resolved."""
        with self._lock:
            self._handles.add(handle)
            if self.cancelled:
                handle.cancel()
        handle.future.add_done_callback(lambda _: self._handles.discard(handle))


@dataclass(frozen=True)
class Deadline:
    """The end of an answer's `timeout`."""

    timeout: float
    """The setting `timeout`, in seconds."""
    end: float
    """End of the time limit on the monotonic clock."""

    @property
    def left(self) -> float:
        """Remaining seconds, at least 0."""
        return max(0.0, self.end - time.monotonic())

    def error(self) -> AnswerTimeoutError:
        """Build the error of an answer that exceeds the time limit."""
        return AnswerTimeoutError(
            f"the answer was not complete within timeout={self.timeout:g} seconds, and its model "
            "work was cancelled. Set a longer timeout or a lower max_tokens, or ask fewer "
            "questions at a time."
        )


def run_blocking(body: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine whose awaits never suspend."""
    try:
        body.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    body.close()
    raise RuntimeError("the coroutine has suspended in a synchronous run")


def submit(
    calls: Sequence[EngineCall], cancel: CancelScope | None = None, deadline: Deadline | None = None
) -> list[Any]:
    """Submit requests and block until all are answered. An interrupt cancels them.

    Returns:
        Their outputs, in order.

    Raises:
        AnswerTimeoutError: The deadline has passed.
        EngineError: A request has failed.
    """
    handles: list[RequestHandle[Any]] = []
    tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    try:
        handles.extend(_begin(call, cancel, tokens.put) for call in calls)
        for call in calls:
            if call.on_token is not None:
                while (token := tokens.get(timeout=_left(deadline))) is not None:
                    call.on_token(token)
        return [handle.result(_left(deadline)) for handle in handles]
    except (TimeoutError, queue.Empty):
        _cancel(handles)
        raise _timeout(deadline) from None
    except BaseException:
        _cancel(handles)
        raise


async def submit_async(
    calls: Sequence[EngineCall], cancel: CancelScope | None = None, deadline: Deadline | None = None
) -> list[Any]:
    """Submit requests and await all outputs. Cancelling the task cancels the requests."""
    loop = asyncio.get_running_loop()
    handles: list[RequestHandle[Any]] = []
    tokens: asyncio.Queue[int | None] = asyncio.Queue()

    def put(token: int | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(tokens.put_nowait, token)

    try:
        async with asyncio.timeout(_left(deadline)):
            handles.extend(_begin(call, cancel, put) for call in calls)
            for call in calls:
                if call.on_token is not None:
                    while (token := await tokens.get()) is not None:
                        call.on_token(token)
            return [await asyncio.wrap_future(handle.future) for handle in handles]
    except TimeoutError:
        _cancel(handles)
        raise _timeout(deadline) from None
    except RequestCancelledError:
        if cancel is not None and cancel.cancelled:
            raise asyncio.CancelledError from None
        raise
    except BaseException:
        _cancel(handles)
        raise


def _begin(
    call: EngineCall, cancel: CancelScope | None, put: Callable[[int | None], None]
) -> RequestHandle[Any]:
    """Submit a call. `put` receives its tokens, and None when the request is resolved."""
    listening = call.on_token is not None
    handle: RequestHandle[Any] = call.engine.submit(
        call.request, put if listening else None, continues=call.continues
    )
    if cancel is not None:
        cancel.watch(handle)
    if listening:
        handle.future.add_done_callback(lambda _: put(None))
    return handle


def _left(deadline: Deadline | None) -> float | None:
    return None if deadline is None else deadline.left


def _timeout(deadline: Deadline | None) -> TimeoutError:
    return TimeoutError() if deadline is None else deadline.error()


def _cancel(handles: Sequence[RequestHandle[Any]]) -> None:
    for handle in handles:
        handle.cancel()
