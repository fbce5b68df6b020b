"""Small models take turns: two forwards of theirs at once are slower than one after the other."""

from __future__ import annotations

import os
import threading
from collections import deque
from types import TracebackType

__all__ = ["Turns"]


PATIENCE = 0.1  # seconds: longer than a small model's forward takes


class Turns:
    """First come, first served: one thread at a time, unless that one takes long.

    The forward of a small model is for the greater part the interpreter's work. Two of them at a
    time hand the interpreter over at every operation, which takes longer than the operation (on
    two cores a target's forward takes four times as long beside a busy draft). A plain lock would
    let a thread that comes back at once overtake the one that waits.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._inside = 0
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self._renew()  # a forked child has none of the threads that had or await a turn
        with self._lock:
            if not self._inside:
                self._inside = 1
                return
            called = threading.Event()
            self._waiting.append(called)
        if called.wait(PATIENCE):
            return
        with self._lock:
            if not called.is_set():  # nobody waits for a forward that may be of any length
                self._waiting.remove(called)
                self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._waiting and not self._inside:
                self._inside = 1  # handed over, without a moment in which another may take it
                self._waiting.popleft().set()
