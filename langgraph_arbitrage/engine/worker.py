"""The thread of one model: it loads the model, runs the scheduler, and reports failures."""

from __future__ import annotations

import gc
import logging
import os
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.cpu import ComputeThreads, pack
from langgraph_arbitrage.engine.cuda_graphs import own_stream
from langgraph_arbitrage.engine.load_check import LoadCheck, plain_logits
from langgraph_arbitrage.engine.model_runner import ModelRunner
from langgraph_arbitrage.engine.plain_runner import PlainRunner
from langgraph_arbitrage.engine.requests import RequestHandle
from langgraph_arbitrage.engine.scheduler import Runner, Scheduler
from langgraph_arbitrage.errors import (
    ArbitrageError,
    EngineBusyError,
    EngineClosedError,
    EngineError,
)
from langgraph_arbitrage.models.loading import LOADING, load_model
from langgraph_arbitrage.models.memory import out_of_memory
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.models.tokenizer import Tokenizer
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["Worker"]

logger = logging.getLogger(__name__)


class Worker:
    """Loads the model on its own thread at the first request, then serves requests until closed.

    If the thread fails, every pending request gets the cause; the next request starts a new one.

    Args:
        spec: The model.
        tokenizer: Its tokenizer.
        end_ids: Tokens that end an answer.
        context: Its context length; None without a limit.
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
        self.scheduler: Scheduler | None = None
        self.backend_name: str | None = None
        self._inbox: queue.SimpleQueue[RequestHandle[Any] | None] = queue.SimpleQueue()
        self._lock = ForkLock()
        self._thread: threading.Thread | None = None
        self._open = 0  # requests that are not resolved
        self._make: Callable[[PreTrainedModel], Runner] | None = None  # of the runner that agreed
        self._packs = True  # until packed weights have proved useless here
        self._threads: ComputeThreads | None = None
        self._closed = False

    def put(self, handle: RequestHandle[Any], *, continues: bool = True) -> None:
        """Queue a request; starts the thread if there is none.

        Args:
            handle: The request.
            continues: Whether it continues an answer in progress.

        Raises:
            EngineBusyError: The queue is full, and the request begins an answer.
            EngineClosedError: The worker was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError(
                    f"{self.spec.name} was closed; make a new chat model or graph"
                )
            if not continues:
                self._check_queue()
            self._open += 1
            self._inbox.put(handle)
            if self._thread is None:
                self._start()
        handle.future.add_done_callback(self._resolved)

    def _check_queue(self) -> None:
        limit, slots = self.spec.max_queue, self.spec.max_slots
        if self.backend_name == "plain":
            slots = 1
        if limit is not None and self._open >= slots + limit:
            raise EngineBusyError(
                f"{self.spec.name} is busy: {self._open} requests run or wait, and max_slots="
                f"{self.spec.max_slots} and max_queue={limit} allow no more ({slots} run at a "
                "time). Ask again later, or raise max_queue; with max_queue=None all wait."
            )

    def _resolved(self, _: Future[Any]) -> None:
        with self._lock:
            self._open -= 1

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"arbitrage-{self.spec.name}", daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """End the thread; pending requests get `EngineClosedError`."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._inbox.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- on the worker's thread ----------------------------------------------------------

    def _run(self) -> None:
        error = self._serve()
        if error is not None:
            # Frames named by the error would keep the model and its cache alive.
            traceback.clear_frames(error.__traceback__)
            _free_memory()
        with self._lock:
            self._thread = None
            if not self._closed and not self._inbox.empty():
                self._start()  # for what arrived after the failure
            lost = self._drained() if self._closed else []
        for handle in lost:
            handle.fail(EngineClosedError(f"{self.spec.name} was closed"))

    def _serve(self) -> BaseException | None:
        """Serve requests until closed (None) or until something fails: the error."""
        scheduler: Scheduler | None = None
        failure: BaseException | None = None
        reason: ArbitrageError = EngineClosedError(f"{self.spec.name} was closed")
        try:
            with torch.inference_mode():
                model = load_model(self.spec)
                with own_stream(model.device):
                    scheduler = self._prepare(model)
                    while self._receive(scheduler):
                        self._step(scheduler)
        except BaseException as error:  # an unreported failure would leave callers waiting
            failure, reason = error, self._failure(error)
        finally:
            self.model = self.scheduler = None
            if self._threads is not None:
                self._threads.release()
                self._threads = None
        lost = self._drained()
        if scheduler is not None:
            scheduler.fail(reason)
        for handle in lost:
            handle.fail(reason)
        return failure

    def _step(self, scheduler: Scheduler) -> None:
        if self._threads is None:
            scheduler.step()
            return
        # The number of threads may change the last bit, so it must not depend on other requests.
        tokens = sum(min(s.remaining, 64) for s in scheduler.running) + len(scheduler.waiting)
        tokens = 1 if scheduler.batch_invariant else tokens
        with self._threads.forward(tokens):
            scheduler.step()

    def _receive(self, scheduler: Scheduler) -> bool:
        """Take the requests that have arrived, waiting for one when idle; False once closed."""
        block = not scheduler.busy
        if block and self._threads is not None and self._inbox.empty():
            self._threads.release()
        while True:
            try:
                handle = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if handle is None:
                return False
            scheduler.add(handle)
            block = False

    def _prepare(self, model: PreTrainedModel) -> Scheduler:
        """Pack the weights on a CPU, and choose the runner."""
        if model.device.type == "cpu":
            with LOADING:  # timed, and draft and target usually load at the same time
                self._packs = self._packs and pack(model, self.spec, lambda: plain_logits(model))
            self._threads = ComputeThreads(model, self.spec.threads, lambda: self._open)
        scheduler = self._scheduler(model)
        self.model, self.scheduler = model, scheduler
        self.backend_name = scheduler.runner.name
        return scheduler

    def _scheduler(self, model: PreTrainedModel) -> Scheduler:
        """Run batches if they agree with a plain forward, otherwise one sequence at a time.

        Checked once: a thread that replaces a failed one takes the same runner.
        """
        makes = self._candidates() if self._make is None else [self._make]
        attention = model.config.get_text_config()._attn_implementation
        check: LoadCheck | None = None
        for make in makes:
            if make is makes[-1]:
                break
            check = check or LoadCheck.of(model, classifies=self.spec.kind != "causal-lm")
            try:
                scheduler = self._over(make(model))
                if check.passes(scheduler):
                    scheduler.runner.cache.clear()
                    self._make = make
                    return scheduler
                why = "its values differ from a plain forward, or it refuses the inputs"
            except ValueError as error:
                why = str(error)
            model.set_attn_implementation(attention)
            logger.info("%s is not run in batches: %s", self.spec.name, why)
        self._make = make
        return self._over(make(model))

    def _candidates(self) -> list[Callable[[PreTrainedModel], Runner]]:
        """The fastest first; the last one is a plain forward itself."""
        plain: list[Callable[[PreTrainedModel], Runner]] = [
            lambda model: PlainRunner(model, cached=True),
            lambda model: PlainRunner(model, cached=False),
        ]
        if self.spec.engine == "plain":
            return plain
        return [lambda model: ModelRunner(model, self.spec, self.context), *plain]

    def _over(self, runner: Runner) -> Scheduler:
        return Scheduler(
            runner,
            self.tokenizer,
            self.end_ids,
            self.context,
            classifies=self.spec.kind != "causal-lm",
            batch_invariant=self.spec.batch_invariant,
        )

    def _failure(self, error: BaseException) -> ArbitrageError:
        """The error that pending requests get."""
        if isinstance(error, ArbitrageError):
            return error
        cause = f"{type(error).__name__}: {error}"
        if out_of_memory(error):
            cause += ". Lower max_slots or max_tokens, or set dtype='bfloat16'."
        failure = EngineError(f"{self.spec.name} failed: {cause}")
        failure.__cause__ = error
        logger.error("%s failed", self.spec.name, exc_info=error)
        return failure

    def _drained(self) -> list[RequestHandle[Any]]:
        """The requests that are in the inbox now, taken out."""
        found: list[RequestHandle[Any]] = []
        while True:
            try:
                handle = self._inbox.get(block=False)
            except queue.Empty:
                return found
            if handle is not None:
                found.append(handle)


def _free_memory() -> None:
    """Return a failed model's memory. After some failures CUDA itself refuses that."""
    gc.collect()
    if torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            logger.warning("the memory of a failed model was not returned: %s", error)
