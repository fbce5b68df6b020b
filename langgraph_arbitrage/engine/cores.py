"""How many compute threads of a CPU a forward gets."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

import torch
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.packed_linear import parameters

__all__ = ["ALL", "Cores", "at_work", "at_work_lately", "threads_alone"]

SMALL = 100_000_000  # parameters up to which one thread beats several on a single token
WIDE = 20_000_000  # parameters × rows from which several threads beat one all the same
ALL = torch.get_num_threads()  # asked now: a thread that sets its own sets it for later ones too

LATELY = 0.05  # seconds in which a thread whose model was at work is expected to go on

_at_work: set[int] = set()  # threads with a model at work
_left: dict[int, float] = {}  # when a thread's model was at work last
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_at_work.clear)  # a child has none of them


def _omp_pause() -> Callable[[int], int]:
    """OpenMP's `omp_pause_resource_all` (5.0), of the library that torch computes with."""
    try:
        pause: Callable[[int], int] = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # built without, or no such call on this system
        return lambda kind: 0
    return pause


_pause = _omp_pause()
SOFT = 1  # what is paused may be used again at any time


def at_work() -> int:
    """How many threads have a model that is at work now."""
    return len(_at_work)


def at_work_lately() -> set[int]:
    """The threads with a model that is at work, or was just now."""
    now = time.perf_counter()
    return _at_work | {thread for thread, left in tuple(_left.items()) if now - left < LATELY}


def threads_alone(parameters: int) -> int:
    """Compute threads of a single row's forward while no other model is at work."""
    return ALL if parameters >= WIDE else 1


class Cores:
    """One thread for a small model, where starting work on several takes longer than the work.

    All of them for many rows at a time that no hands share: their keys and values are more than one
    core can fetch. Measured on two cores with a model of 2.9M parameters: eight rows on two threads
    take 0.8 of the time that they take on one, and a single row takes as long on either. Models at
    work at the same time share them: each on a core of its own, two are faster than both on all.

    As a context manager: while the model is at work.
    """

    def __init__(self, model: PreTrainedModel, threads: int | None) -> None:
        """What to use from the thread that this is made in.

        Args:
            model: The model, on a CPU.
            threads: Always so many; None chooses.
        """
        self._parameters = parameters(model)
        self._few = threads or (1 if self._parameters <= SMALL else ALL)
        self._many = threads or ALL
        self._several = True  # have worked on this thread since it rested: loading may have
        self._set(self._few)

    @property
    def takes_turns(self) -> bool:
        """Whether forwards by Python are for the greater part the interpreter's work."""
        return self._few == 1

    def use(self, rows: int) -> None:
        """Prepare for a forward of so many rows."""
        wide = self._parameters * rows >= WIDE
        share = self._many // max(1, len(_at_work))
        threads = max(self._few, share) if wide else self._few
        self._several |= threads > 1
        if threads != self._now:
            self._set(threads)

    def rest(self) -> None:
        """Give the other compute threads back before waiting; they come again when needed.

        Where the threads of all models together are more than there are cores, OpenMP (libgomp)
        lets none of them spin, and each operation begins with waking them: a token of a model with
        135M parameters took 29 ms instead of 19 once a second model had threads that did nothing.
        """
        if self._several:
            self._several = False
            _pause(SOFT)

    def __enter__(self) -> None:
        _at_work.add(threading.get_ident())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _at_work.discard(threading.get_ident())
        _left[threading.get_ident()] = time.perf_counter()

    def _set(self, threads: int) -> None:
        self._now = threads
        torch.set_num_threads(threads)
