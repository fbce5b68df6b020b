"""One worker a model: its thread owns the model, the cache and everything on the device.

Where that is faster, other threads take rows beside it (`crew`).
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.ahead import Ahead
from langgraph_arbitrage.engine.backend import Backend
from langgraph_arbitrage.engine.cores import Cores
from langgraph_arbitrage.engine.crew import Crew, Halts
from langgraph_arbitrage.engine.cuda_capture import own_stream
from langgraph_arbitrage.engine.decode_graphs import decode_graphs
from langgraph_arbitrage.engine.loader import LOADING, load_model
from langgraph_arbitrage.engine.memory import out_of_memory
from langgraph_arbitrage.engine.packed_linear import is_packed
from langgraph_arbitrage.engine.packing import pack
from langgraph_arbitrage.engine.plain_backend import PlainBackend
from langgraph_arbitrage.engine.probe import agrees
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.slots import Lengths
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer
from langgraph_arbitrage.engine.traces import Traces, traces_of
from langgraph_arbitrage.engine.turns import Turns
from langgraph_arbitrage.errors import (
    ArbitrageError,
    EngineBusyError,
    EngineClosedError,
    EngineError,
)
from langgraph_arbitrage.forks import ForkLock

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

TURNS = Turns()  # of small models on a CPU that do not run by traces
NUDGE = "look"  # in the inbox: there may be something to do
PROBED = Lengths(8, 2)  # so short that a capability check meets several arenas

Make = Callable[[PreTrainedModel, Lengths | None], Backend]


class Worker:
    """Loads the model on its own thread at the first ticket, then serves tickets until closed.

    A thread that dies tells everyone who waits; the next ticket starts a fresh one.
    """

    def __init__(
        self, spec: ModelSpec, tokenizer: Tokenizer, end_ids: frozenset[int], context: int | None
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.pid = os.getpid()
        """The process whose thread this is."""
        self.model: PreTrainedModel | None = None
        self.backend_name: str | None = None
        self._inbox: queue.SimpleQueue[Ticket[Any] | str | None] = queue.SimpleQueue()
        self._halts = Halts()
        self._lock = ForkLock()
        self._thread: threading.Thread | None = None
        self._open = 0  # tickets that are not resolved
        self._make: Make | None = None  # of the backend that agreed
        self._packs = True  # until packed weights were found to be of no use here
        self._cores: Cores | None = None
        self._turns: Turns | None = None
        self._traces: Traces | None = None
        self._crew: Crew | None = None
        self._ahead: Ahead | None = None
        self._closed = False

    def put(self, ticket: Ticket[Any], *, under_way: bool = True) -> None:
        """Hand over a ticket; starts the thread when there is none.

        Raises:
            EngineBusyError: The queue is full, and the ticket begins an answer.
            EngineClosedError: The worker was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError(
                    f"{self.spec.name} was closed; make a new chat model or graph"
                )
            if not under_way:
                self._check_queue()
            self._open += 1
            ticket.halt = self._halts.ask
            self._inbox.put(ticket)
            # Behind it: the first hand takes it when it heeds this, and also once it has ended the
            # row that it is for.
            ahead = self._ahead
            if ahead is None or not ahead.writes(ticket.request.ids, hand=0):
                self._halts.ask(0)
            if self._thread is None:
                self._start()
        ticket.future.add_done_callback(self._resolved)

    def _check_queue(self) -> None:
        queue, rows = self.spec.max_queue, self.spec.max_slots
        if self.backend_name == "plain":
            rows = 1
        if queue is not None and self._open >= rows + queue:
            raise EngineBusyError(
                f"{self.spec.name} is busy: {self._open} requests run or wait, and max_slots="
                f"{self.spec.max_slots} and max_queue={queue} allow no more ({rows} run at a "
                "time). Ask again later, or raise max_queue; with max_queue=None all wait."
            )

    def _resolved(self, _: Future[Any]) -> None:
        with self._lock:
            self._open -= 1

    def _start(self) -> None:
        self._thread = threading.Thread(
            target=self._run, name=f"arbitrage-{self.spec.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the thread; whoever waits gets `EngineClosedError`."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._inbox.put(None)
        self._halts.ask()
        if thread is not None and not self._works_here(thread):
            thread.join()

    def _works_here(self, thread: threading.Thread) -> bool:
        """Whether this is called by one of its own threads, of which none can wait for another."""
        crew, here = self._crew, threading.current_thread()
        return here is thread or (crew is not None and here in crew.threads)

    # --- on the worker's thread ----------------------------------------------------------

    def _run(self) -> None:
        error = self._serve()
        if error is not None:
            # Whoever keeps the error would keep the model and its cache, by the frames it names.
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        with self._lock:
            self._thread = None
            if not self._closed and not self._inbox.empty():
                self._start()  # for what came in after the failure
            lost = self._drained() if self._closed else []
        for ticket in lost:
            ticket.fail(EngineClosedError(f"{self.spec.name} was closed"))

    def _serve(self) -> BaseException | None:
        """Serve tickets until closed (None), or until something fails: what it was."""
        scheduler: Scheduler | None = None
        try:
            with torch.inference_mode():
                model = load_model(self.spec)
                with own_stream(model.device):
                    scheduler = self._started(model)
                    self._work(scheduler)
        except BaseException as error:  # a thread that ends unseen would leave all waiting for ever
            self._end(scheduler, self._failure(error))
            return error
        finally:
            self.model = self._traces = self._ahead = None
        self._end(scheduler, EngineClosedError(f"{self.spec.name} was closed"))
        return None

    def _work(self, scheduler: Scheduler) -> None:
        """Until closed."""
        goes_on = False
        while self._take(scheduler, block=not goes_on):
            if scheduler.crew is not None:
                scheduler.crew.check()
            with self._turn(scheduler.rows) as mine, self._cores or nullcontext():
                goes_on = scheduler.step(0, self._cores) if mine else True

    def _end(self, scheduler: Scheduler | None, why: ArbitrageError) -> None:
        """Tell all who wait, once nobody works any more."""
        if scheduler is not None and scheduler.crew is not None:
            scheduler.crew.stop()
            scheduler.crew = self._crew = None  # it holds the model
        lost = self._drained()
        if scheduler is not None:
            scheduler.fail(why)
        for ticket in lost:
            ticket.fail(why)

    def _started(self, model: PreTrainedModel) -> Scheduler:
        if model.device.type == "cpu":
            with LOADING:  # it is timed, and draft and target mostly load at the same time
                self._packs = self._packs and pack(model, self.spec)
            self._cores = Cores(model, self.spec.threads)
            if self._cores.takes_turns:
                self._turns = TURNS
        scheduler = self._choose(model)
        if isinstance(slots := scheduler.backend, SlotBackend):
            graphs = decode_graphs(model, self.spec, slots.cache)
            if graphs is None:
                baton = scheduler.baton
                there = slots.cache, slots.table
                self._traces = traces_of(model, self.spec, *there, baton, self._halts)
            slots.faster = graphs or self._traces
            # Each hand reads all weights by itself: of a larger model that is what takes long.
            shares = self.spec.threads is None and not is_packed(model)
            if self._traces is not None and shares:
                scheduler.crew = self._crew = self._crew_of(scheduler, model, self._traces)
        self._ahead = scheduler.ahead
        self.model, self.backend_name = model, scheduler.backend.name
        return scheduler

    def _crew_of(self, scheduler: Scheduler, model: PreTrainedModel, traces: Traces) -> Crew:
        return Crew(
            f"arbitrage-{self.spec.name}",
            scheduler,
            model.num_parameters(),
            halts=self._halts,
            cores=lambda: Cores(model, None),
            ready=lambda: traces.at_work,
            wake_first=lambda: self._inbox.put(NUDGE),
        )

    def _choose(self, model: PreTrainedModel) -> Scheduler:
        """The slot engine if it agrees with a plain forward, else the plain one.

        Checked once: a thread that follows one that died takes the same again.
        """
        if self._make is None:
            *faster, plainest = self._candidates()
            found = (m for m in faster if agrees(self._scheduler(m(model, PROBED)), model))
            self._make = next(found, plainest)
        return self._scheduler(self._make(model, None))  # without what the check has cached

    def _candidates(self) -> list[Make]:
        """The fastest first; the last is a plain forward itself."""
        spec, context, reuse = self.spec, self.context, not self.spec.batch_invariant
        slots: list[Make] = [
            lambda model, lengths: SlotBackend(model, spec, context, lengths=lengths),
            lambda model, lengths: SlotBackend(model, spec, context, joined=False, lengths=lengths),
        ]
        plain: list[Make] = [
            lambda model, _: PlainBackend(model, cached=True, reuse=reuse),
            lambda model, _: PlainBackend(model, cached=False, reuse=reuse),
        ]
        return plain if spec.engine == "plain" else [*slots, *plain]

    def _scheduler(self, backend: Backend) -> Scheduler:
        return Scheduler(
            backend,
            self.tokenizer,
            self.end_ids,
            self.context,
            classifies=self.spec.kind != "causal-lm",
        )

    def _turn(self, rows: int) -> AbstractContextManager[bool]:
        """When to run, and whether to: traces do not need the interpreter, and so no turns."""
        traced = self._traces is not None and self._traces.at_work
        return nullcontext(True) if self._turns is None or traced else self._turns.turn(rows)

    def _take(self, scheduler: Scheduler, *, block: bool) -> bool:
        """Take all waiting tickets, if need be waiting for one; False once closed."""
        while True:
            self._halts.heed(0)
            if block and self._cores is not None and self._inbox.empty():
                self._cores.rest()
            try:
                found = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if found is None:
                return False
            if isinstance(found, Ticket):
                scheduler.add(found)
            block = False

    def _failure(self, error: BaseException) -> ArbitrageError:
        """What those who wait are told."""
        if isinstance(error, ArbitrageError):
            return error
        cause = f"{type(error).__name__}: {error}"
        if out_of_memory(error):
            cause += ". Lower max_slots or max_tokens, or set dtype='bfloat16'."
        failure = EngineError(f"{self.spec.name} failed: {cause}")
        failure.__cause__ = error
        logger.error("%s failed", self.spec.name, exc_info=error)
        return failure

    def _drained(self) -> list[Ticket[Any]]:
        """The tickets that are in the inbox now, taken out."""
        found: list[Ticket[Any]] = []
        while True:
            try:
                ticket = self._inbox.get(block=False)
            except queue.Empty:
                return found
            if isinstance(ticket, Ticket):
                found.append(ticket)
