"""Small models take turns: two forwards of theirs at once are slower than one after the other."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Turns"]


PATIENCE = 0.1  # seconds: longer than a small model's forward takes
MANY = 2  # times its own rows have to wait elsewhere for a thread to give way
PASSES = 3  # turns that a thread gives way before it takes one all the same


@dataclass(eq=False)
class _Waiting:
    """A thread that waits for its turn."""

    rows: int
    called: threading.Event = field(default_factory=threading.Event)


class Turns:
    """First come, first served: one thread at a time, unless that one takes long.

    The forward of a small model is for the greater part the interpreter's work. Two of them at a
    time hand the interpreter over at every operation, which takes longer than the operation (on
    two cores a target's forward takes four times as long beside a busy draft). A plain lock would
    let a thread that comes back at once overtake the one that waits.

    A forward takes about as long for one row as for four. So a thread with few rows gives way a
    few times to one with many: meanwhile more rows come in, which share its forward. Measured
    with 32 answers of the loop at a time, where the target's few rows gave way to the draft's
    many: 1.1 times as many questions a second.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._inside = 0
        self._waiting: deque[_Waiting] = deque()
        self._passed: dict[int, int] = {}  # thread → turns in a row that it gave way

    @contextmanager
    def turn(self, rows: int) -> Iterator[bool]:
        """Wait for a turn.

        Args:
            rows: Sequences that are worked on in it.

        Yields:
            Whether to use it; else many more rows wait elsewhere, and it is to be asked for again.
        """
        self._enter(rows)
        try:
            yield not self._gives_way(rows)
        finally:
            self._leave()

    def _enter(self, rows: int) -> None:
        if self._pid != os.getpid():
            self._renew()  # a forked child has none of the threads that had or await a turn
        with self._lock:
            if not self._inside:
                self._inside = 1
                return
            me = _Waiting(rows)
            self._waiting.append(me)
        if me.called.wait(PATIENCE):
            return
        with self._lock:
            if not me.called.is_set():  # nobody waits for a forward that may be of any length
                self._waiting.remove(me)
                self._inside += 1

    def _gives_way(self, rows: int) -> bool:
        thread = threading.get_ident()
        with self._lock:
            most = max((other.rows for other in self._waiting), default=0)
            passed = self._passed.pop(thread, 0)
            if passed == PASSES or most <= MANY * rows:
                return False
            self._passed[thread] = passed + 1
            return True

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._waiting and not self._inside:
                self._inside = 1  # handed over, without a moment in which another may take it
                self._waiting.popleft().called.set()
