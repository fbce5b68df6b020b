"""The hands of one model: threads that feed rows of their own at the same time.

The operations of a small model are too short to be shared among cores, one by one. So its rows are:
each hand takes some of them through the whole model, on a core of its own, and while one computes
another chooses tokens. A forward of 32 rows of a model of 3M parameters took 16 ms on one core, 13
to 24 ms where two cores shared each operation, and 10 ms where each took half of the rows.

Everything but the forward of a trace, which needs no interpreter, is done by one hand at a time:
the one that holds the baton. The first hand is the worker's own thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from langgraph_arbitrage.engine.cores import ALL, Cores, at_work, at_work_lately

if TYPE_CHECKING:
    from langgraph_arbitrage.engine.scheduler import Scheduler

__all__ = ["Baton", "Crew", "Halts"]

MOST = 4  # hands of a model: the interpreter chooses all their tokens, one after the other
ENOUGH = 10_000_000  # parameters × rows of a hand: below, it is operations that take long to start


class Baton:
    """Whoever holds it decides and changes things; meanwhile others only compute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def laid_down(self) -> Iterator[None]:
        """Let others have it for a while."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class Halts:
    """A flag for each hand: its loop looks at it after each token."""

    def __init__(self) -> None:
        self._flags = bytearray(MOST)
        self.flags = torch.frombuffer(self._flags, dtype=torch.uint8)

    def ask(self, hand: int | None = None) -> None:
        """Have the loop of a hand end, or of all: there is something to look at."""
        if hand is None:
            self._flags[:] = b"\1" * len(self._flags)
        else:
            self._flags[hand] = 1

    def heed(self, hand: int) -> None:
        """Before a hand looks at what there is."""
        self._flags[hand] = 0


class Crew:
    """The hands beside the first: started when first needed, asleep while they have no rows."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        parameters: int,
        *,
        halts: Halts,
        cores: Callable[[], Cores],
        ready: Callable[[], bool],
        wake_first: Callable[[], None],
    ) -> None:
        """A crew of one.

        Args:
            name: Of its threads.
            scheduler: Whose rows they feed.
            parameters: Of the model.
            halts: What asks them to look around.
            cores: Makes those of a hand, on its thread.
            ready: Whether forwards need no interpreter now.
            wake_first: Wakes the first hand where it waits.
        """
        self.name = name
        self.scheduler = scheduler
        self.error: BaseException | None = None
        """What ended a hand."""
        self._parameters = parameters
        self._halts = halts
        self._cores = cores
        self._ready = ready
        self._wake_first = wake_first
        self._stopped = False
        self._calls: dict[int, queue.SimpleQueue[bool]] = {}
        self.threads: list[threading.Thread] = []
        """Of the hands beside the first."""
        self._retired = False

    def hands(self, rows: int) -> int:
        """How many may share so many rows: each needs a core that no other model works on."""
        worth = rows * self._parameters // ENOUGH
        if worth < 2 or self._retired or not self._ready():
            return 1
        own = {thread.ident for thread in self.threads}
        elsewhere = at_work_lately() - own - {threading.get_ident()}
        return min(max(1, ALL - len(elsewhere)), MOST, worth)

    @property
    def retired(self) -> bool:
        """Whether the first hand works alone from now on: forwards need the interpreter again."""
        self._retired |= not self._ready()
        return self._retired

    @property
    def has_time(self) -> bool:
        """Whether a core is idle beside that of the hand that asks, for whoever comes next."""
        return not self.retired and at_work() < ALL

    def call(self, hand: int) -> None:
        """Have a hand that works look around behind its next token."""
        self._halts.ask(hand)

    def wake(self, hand: int) -> None:
        """Let a hand that sleeps look for rows. Only while holding the baton."""
        if hand == 0:
            self._wake_first()
            return
        if hand not in self._calls:
            self._calls[hand] = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._run, args=(hand,), name=f"{self.name}-{hand + 1}", daemon=True
            )
            self.threads.append(thread)
            thread.start()
        self._calls[hand].put(True)

    def check(self) -> None:
        """Raise what ended a hand, if anything did."""
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End all hands but the first, once their forwards are done."""
        self._stopped = True
        self._halts.ask()
        for calls in self._calls.values():
            calls.put(False)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self, hand: int, cores: Cores) -> None:
        """Until it has no more rows."""
        goes_on = True
        while goes_on:
            self._halts.heed(hand)
            if self._stopped:
                return
            goes_on = self.scheduler.step(hand, cores)

    def _run(self, hand: int) -> None:
        try:
            with torch.inference_mode():
                cores = self._cores()
                while self._calls[hand].get():
                    with cores:
                        self._work(hand, cores)
                    cores.rest()
        except BaseException as error:  # the worker ends by it, and tells all who wait
            self.error = error
            self._wake_first()
            self._halts.ask()
