"""One thread a model: it owns the model, the cache and everything on the device."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.loader import load_model
from langgraph_arbitrage.engine.plain_backend import PlainBackend
from langgraph_arbitrage.engine.probe import agrees
from langgraph_arbitrage.engine.scheduler import Backend, Scheduler
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer
from langgraph_arbitrage.errors import ArbitrageError, EngineClosedError, EngineError

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

SMALL = 100_000_000  # parameters up to which one thread beats several (launch costs dominate)


class Worker:
    """Loads the model on its own thread at the first ticket, then serves tickets until closed."""

    def __init__(
        self, spec: ModelSpec, tokenizer: Tokenizer, end_ids: frozenset[int], context: int | None
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.model: PreTrainedModel | None = None
        self.backend_name: str | None = None
        self._inbox: queue.SimpleQueue[Ticket[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, ticket: Ticket[Any]) -> None:
        """Hand over a ticket; starts the thread when there is none."""
        with self._lock:
            if self._closed:
                raise EngineClosedError(
                    f"{self.spec.name} was closed; make a new chat model or graph"
                )
            self._inbox.put(ticket)
            if self._thread is None:
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
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- on the worker's thread ----------------------------------------------------------

    def _run(self) -> None:
        scheduler: Scheduler | None = None
        try:
            with torch.inference_mode():
                scheduler = self._load()
                while self._take(scheduler):
                    scheduler.step()
        except Exception as error:
            self._end(error, scheduler)
        finally:
            self.model = None

    def _load(self) -> Scheduler:
        model = load_model(self.spec)
        if model.device.type == "cpu":
            small = model.num_parameters() <= SMALL
            torch.set_num_threads(self.spec.threads or (1 if small else torch.get_num_threads()))
        scheduler = self._choose(model)
        self.model, self.backend_name = model, scheduler.backend.name
        return scheduler

    def _choose(self, model: PreTrainedModel) -> Scheduler:
        """The slot engine if it agrees with a plain forward, else the plain one."""
        candidates: list[Callable[[], Backend]] = [
            lambda: SlotBackend(model, self.spec.max_slots, self.context),
            lambda: PlainBackend(model, cached=True),
        ]
        for make in candidates[self.spec.engine == "plain" :]:
            if agrees(self._scheduler(make()), model):
                return self._scheduler(make())  # afresh, without what the check has cached
        return self._scheduler(PlainBackend(model, cached=False))

    def _scheduler(self, backend: Backend) -> Scheduler:
        return Scheduler(
            backend,
            self.tokenizer,
            self.end_ids,
            self.context,
            self.spec.max_slots,
            classifies=self.spec.kind != "causal-lm",
        )

    def _take(self, scheduler: Scheduler) -> bool:
        """Take all waiting tickets, waiting for one when idle; False once closed."""
        block = not scheduler.busy
        while True:
            try:
                ticket = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if ticket is None:
                scheduler.fail(EngineClosedError(f"{self.spec.name} was closed"))
                self._drain(EngineClosedError(f"{self.spec.name} was closed"))
                return False
            scheduler.add(ticket)
            block = False

    def _end(self, error: Exception, scheduler: Scheduler | None) -> None:
        """Tell everyone who waits; the next ticket starts a fresh thread."""
        if not isinstance(error, ArbitrageError):
            cause = f"{type(error).__name__}: {error}"
            failure: Exception = EngineError(f"{self.spec.name} failed: {cause}")
            failure.__cause__ = error
            logger.error("%s failed", self.spec.name, exc_info=error)
        else:
            failure = error
        with self._lock:
            self._thread = None
            if scheduler is not None:
                scheduler.fail(failure)
            self._drain(failure)

    def _drain(self, error: Exception) -> None:
        while True:
            try:
                ticket = self._inbox.get(block=False)
            except queue.Empty:
                return
            if ticket is not None:
                ticket.fail(error)
