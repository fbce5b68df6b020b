"""A request on its way through a worker: its future, its cancel flag, its listener."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from langgraph_arbitrage.engine.requests import Reading, Score, Write, Written
from langgraph_arbitrage.errors import RequestCancelledError

__all__ = ["Listener", "Ticket"]

Answer = TypeVar("Answer", Written, Reading)
Listener = Callable[[int], None]
"""Called with each new token id, on a thread of the worker: hand it on, do no work."""


class Ticket(Generic[Answer]):
    """What `Engine.submit` returns.

    `future` is running from the start, so that nobody can cancel it: setting the result of a
    cancelled one raises. `cancel()` raises a flag that the worker looks at between two tokens.
    """

    def __init__(self, request: Write | Score, listener: Listener | None = None) -> None:
        self.request = request
        self.listener = listener
        self.future: Future[Answer] = Future()
        self.future.set_running_or_notify_cancel()
        self.cancelled = False
        self.halt: Callable[[], None] | None = None
        """Has the worker look at the flag soon (worker only)."""
        self.submitted = time.perf_counter()

    def cancel(self) -> None:
        """Stop within a token; the future then raises `RequestCancelledError`."""
        self.cancelled = True
        if self.halt is not None:
            self.halt()

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the answer; being interrupted while waiting cancels the request."""
        try:
            return self.future.result(timeout)
        except BaseException:
            self.cancel()
            raise

    @property
    def seconds(self) -> float:
        """Seconds since the request was submitted."""
        return time.perf_counter() - self.submitted

    def resolve(self, answer: Answer) -> None:
        """Set the answer (worker only)."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: BaseException | None = None) -> None:
        """Set the error, or that the request was cancelled (worker only)."""
        if not self.future.done():
            self.future.set_exception(error or RequestCancelledError("the request was cancelled"))
