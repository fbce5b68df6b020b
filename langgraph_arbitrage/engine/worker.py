"""The worker of one model: a thread that loads the model and runs the scheduler."""

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
    """Serves the requests of one model on its own thread, which loads the model first.

    The first request starts the thread. If the thread fails, all pending requests fail with an
    `ArbitrageError`, and the next request starts a new thread.

    Args:
        spec: The model.
        tokenizer: The model's tokenizer.
        end_ids: Token ids that end an answer.
        context: Context length of the model in tokens. None: unlimited.
    """

    def __init__(
        self, spec: ModelSpec, tokenizer: Tokenizer, end_ids: frozenset[int], context: int | None
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.pid = os.getpid()
        """Id of the process in which the thread runs."""
        self.model: PreTrainedModel | None = None
        self.scheduler: Scheduler | None = None
        self.backend_name: str | None = None
        self._inbox: queue.SimpleQueue[RequestHandle[Any] | None] = queue.SimpleQueue()
        self._lock = ForkLock()
        self._thread: threading.Thread | None = None
        self._open = 0  # requests without an output or error
        # Creates the kind of runner that passed the load check. None before the check.
        self._make_runner: Callable[[PreTrainedModel], Runner] | None = None
        self._packs = True  # whether to try packing; False after packing had no benefit
        self._threads: ComputeThreads | None = None
        self._closed = False

    def put(self, handle: RequestHandle[Any], *, continues: bool = True) -> None:
        """Queue a request, and start the thread if it is not running.

        Args:
            handle: The request.
            continues: Whether the request continues an answer in progress.

        Raises:
            EngineBusyError: The queue is full, and the request begins an answer.
            EngineClosedError: The worker was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError(
                    f"{self.spec.name} was closed. Create a new chat model or graph."
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
                f"{self.spec.name} is busy: {self._open} requests are running or queued, and the "
                f"limit is {slots} running plus max_queue={limit} queued. Retry later, or raise "
                "max_queue (None: unlimited)."
            )

    def _resolved(self, _: Future[Any]) -> None:
        with self._lock:
            self._open -= 1

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"arbitrage-{self.spec.name}", daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Stop the thread. Pending requests fail with `EngineClosedError`."""
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
            # The frames of the traceback refer to the model and its KV cache.
            traceback.clear_frames(error.__traceback__)
            _free_memory()
        with self._lock:
            self._thread = None
            if not self._closed and not self._inbox.empty():
                self._start()  # serves the requests that arrived after the failure
            pending = self._drain_inbox() if self._closed else []
        for handle in pending:
            handle.fail(EngineClosedError(f"{self.spec.name} was closed"))

    def _serve(self) -> BaseException | None:
        """Serve requests until closed. Returns the error if serving failed, otherwise None."""
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
        except BaseException as error:  # without a result or error, callers would wait forever
            failure, reason = error, self._failure(error)
        finally:
            self.model = self.scheduler = None
            if self._threads is not None:
                self._threads.release()
                self._threads = None
        pending = self._drain_inbox()
        if scheduler is not None:
            scheduler.fail(reason)
        for handle in pending:
            handle.fail(reason)
        return failure

    def _step(self, scheduler: Scheduler) -> None:
        """Run one step of the scheduler, on a CPU with a suitable number of threads."""
        if self._threads is None:
            scheduler.step()
            return
        # The number of threads may change the last bit of results. With `batch_invariant`, it must
        # not depend on other requests.
        tokens = sum(min(s.remaining, 64) for s in scheduler.running) + len(scheduler.waiting)
        tokens = 1 if scheduler.batch_invariant else tokens
        with self._threads.forward(tokens):
            scheduler.step()

    def _receive(self, scheduler: Scheduler) -> bool:
        """Pass new requests to the scheduler, and wait for a request if there are none.

        Returns:
            False if the worker was closed.
        """
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
            with LOADING:  # `pack` measures times, so no other model may load meanwhile
                self._packs = self._packs and pack(model, self.spec, lambda: plain_logits(model))
            self._threads = ComputeThreads(model, self.spec.threads, lambda: self._open)
        scheduler = self._choose_scheduler(model)
        self.model, self.scheduler = model, scheduler
        self.backend_name = scheduler.runner.name
        return scheduler

    def _choose_scheduler(self, model: PreTrainedModel) -> Scheduler:
        """Create a scheduler with the fastest runner that passes the load check.

        The check runs once. A thread that replaces a failed thread uses the same kind of runner.
        """
        candidates = self._candidates() if self._make_runner is None else [self._make_runner]
        attention = model.config.get_text_config()._attn_implementation
        check: LoadCheck | None = None
        for make_runner in candidates[:-1]:
            check = check or LoadCheck.of(model, classifies=self.spec.kind != "causal-lm")
            try:
                scheduler = self._scheduler_of(make_runner(model))
                if check.passes(scheduler):
                    scheduler.runner.cache.clear()
                    self._make_runner = make_runner
                    return scheduler
                reason = "the results differ from a plain forward, or the model rejects the inputs"
            except ValueError as error:
                reason = str(error)
            model.set_attn_implementation(attention)
            logger.info("%s falls back to a slower runner: %s", self.spec.name, reason)
        self._make_runner = candidates[-1]
        return self._scheduler_of(self._make_runner(model))

    def _candidates(self) -> list[Callable[[PreTrainedModel], Runner]]:
        """Return functions that create the possible runners, from fastest to slowest.

        The last runner computes plain forwards, so it needs no check.
        """
        plain: list[Callable[[PreTrainedModel], Runner]] = [
            lambda model: PlainRunner(model, cached=True),
            lambda model: PlainRunner(model, cached=False),
        ]
        if self.spec.engine == "plain":
            return plain
        return [lambda model: ModelRunner(model, self.spec, self.context), *plain]

    def _scheduler_of(self, runner: Runner) -> Scheduler:
        return Scheduler(
            runner,
            self.tokenizer,
            self.end_ids,
            self.context,
            classifies=self.spec.kind != "causal-lm",
            batch_invariant=self.spec.batch_invariant,
        )

    def _failure(self, error: BaseException) -> ArbitrageError:
        """Return the exception for pending requests. Logs errors of other packages."""
        if isinstance(error, ArbitrageError):
            return error
        cause = f"{type(error).__name__}: {error}"
        if out_of_memory(error):
            cause += ". Lower max_slots or max_tokens, or set dtype='bfloat16'."
        failure = EngineError(f"{self.spec.name} failed: {cause}")
        failure.__cause__ = error
        logger.error("%s failed", self.spec.name, exc_info=error)
        return failure

    def _drain_inbox(self) -> list[RequestHandle[Any]]:
        """Remove and return the requests in the inbox."""
        handles: list[RequestHandle[Any]] = []
        while True:
            try:
                handle = self._inbox.get(block=False)
            except queue.Empty:
                return handles
            if handle is not None:
                handles.append(handle)


def _free_memory() -> None:
    """Free the memory of a failed model. If CUDA cannot free it, log a warning."""
    gc.collect()
    if torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            logger.warning("The memory of a failed model was not freed: %s", error)
