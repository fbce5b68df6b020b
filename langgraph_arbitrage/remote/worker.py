"""The worker of one remote model: a thread that runs requests concurrently on an event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.engine.requests import RequestHandle
from langgraph_arbitrage.errors import (
    ArbitrageError,
    EngineBusyError,
    EngineClosedError,
    EngineError,
    MissingExtraError,
)
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.models.tokenizer import Tokenizer
from langgraph_arbitrage.remote.address import ServerAddress
from langgraph_arbitrage.remote.server import RemoteServer
from langgraph_arbitrage.remote.step import RemoteStep
from langgraph_arbitrage.utils.fork_lock import ForkLock

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["RemoteWorker", "import_openai"]

logger = logging.getLogger(__name__)

CANCEL_CHECK_INTERVAL = 0.02  # seconds between two checks for cancelled requests


class RemoteWorker:
    """Runs the requests of one remote model on its own thread. Has the interface of `Worker`.

    Args:
        spec: The model.
        address: The server, the model and the connection options.
        tokenizer: The model's tokenizer.
        end_ids: Token ids that end an answer.
        context: Context length of the model in tokens. None: unlimited.
    """

    def __init__(
        self,
        spec: ModelSpec,
        address: ServerAddress,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.pid = os.getpid()
        """Id of the process in which the thread runs."""
        self.backend_name: str | None = None
        self._address = address
        self._lock = ForkLock()
        self._open = 0  # requests without an output or error
        self._closed = False
        self._tasks: dict[RequestHandle[Any], asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

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
            if self._loop is None:
                self._start()
            assert self._loop is not None  # noqa: S101 - started above
            self._loop.call_soon_threadsafe(self._begin, handle)
        handle.future.add_done_callback(self._resolved)

    def _check_queue(self) -> None:
        limit, slots = self.spec.max_queue, self.spec.max_slots
        if limit is not None and self._open >= slots + limit:
            raise EngineBusyError(
                f"{self._address} is busy: {self._open} requests are running or queued, and the "
                f"limit is max_slots={slots} running plus max_queue={limit} queued. Retry later, "
                "or raise max_queue (None: unlimited)."
            )

    def _resolved(self, _: Future[Any]) -> None:
        with self._lock:
            self._open -= 1

    def _start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(ready)),
            name=f"arbitrage-{self._address.model}",
            daemon=True,
        )
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        """Stop the thread. Pending requests fail with `EngineClosedError`."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(self._closing.set)
            if thread is not threading.current_thread():
                thread.join()

    # --- on the worker's thread ----------------------------------------------------------

    async def _run(self, ready: threading.Event) -> None:
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(self.spec.max_slots)
        self._loop = asyncio.get_running_loop()
        ready.set()
        async with RemoteServer(self._address, self.tokenizer) as server:
            self._server = server
            while not self._closing.is_set():
                for handle, task in list(self._tasks.items()):
                    if handle.cancelled:
                        task.cancel()
                timeout = CANCEL_CHECK_INTERVAL if self._tasks else None
                self._wake = asyncio.Event()
                waits = [asyncio.ensure_future(e.wait()) for e in (self._closing, self._wake)]
                await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        # Unfinished streams can only be closed while this event loop runs, so collect them now.
        gc.collect()
        await asyncio.sleep(0)

    def _begin(self, handle: RequestHandle[Any]) -> None:
        task = asyncio.ensure_future(self._serve(handle))
        self._tasks[handle] = task
        task.add_done_callback(lambda _: self._tasks.pop(handle, None))
        if len(self._tasks) == 1 and "_wake" in self.__dict__:
            self._wake.set()

    async def _serve(self, handle: RequestHandle[Any]) -> None:
        try:
            async with self._slots:
                await self._server.probe()
                self.backend_name = "remote"
                step = RemoteStep(handle, self.tokenizer, self.end_ids, self.context)
                handle.resolve(await step.generate(self._server))
        except asyncio.CancelledError:
            closed = EngineClosedError(f"{self.spec.name} was closed") if self._closed else None
            handle.fail(closed)
        except ArbitrageError as error:
            handle.fail(error)
        except Exception as error:  # without a result or error, the caller would wait forever
            logger.exception("%s failed", self._address)
            failure = EngineError(f"{self._address} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            handle.fail(failure)


def import_openai() -> ModuleType:
    """Import and return the openai client.

    Raises:
        MissingExtraError: The openai client is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "Models on a server need the openai client, which is not installed: "
            "pip install 'langgraph-arbitrage[remote]'"
        ) from error
    return openai
