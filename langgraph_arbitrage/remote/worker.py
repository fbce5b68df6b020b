"""One thread a served model: many requests at a time on its event loop."""

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
from langgraph_arbitrage.remote.address import Address
from langgraph_arbitrage.remote.server import RemoteServer
from langgraph_arbitrage.remote.step import RemoteStep
from langgraph_arbitrage.utils.fork_lock import ForkLock

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["RemoteWorker", "import_openai"]

logger = logging.getLogger(__name__)

LOOK = 0.02  # seconds between two looks at who has cancelled


class RemoteWorker:
    """Takes tickets from any thread, as a local model's worker does."""

    def __init__(
        self,
        spec: ModelSpec,
        address: Address,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
    ) -> None:
        self.spec = spec
        self.pid = os.getpid()
        self.backend_name: str | None = None
        self._address = address
        self._made = tokenizer, end_ids, context
        self._lock = ForkLock()
        self._open = 0
        self._closed = False
        self._tasks: dict[RequestHandle[Any], asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def put(self, ticket: RequestHandle[Any], *, continues: bool = True) -> None:
        """Hand over a ticket; starts the thread when there is none.

        Raises:
            EngineBusyError: The queue is full, and the ticket begins an answer.
            EngineClosedError: The worker was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError(f"{self.spec.name} was closed")
            most = self.spec.max_queue
            if not continues and most is not None and self._open >= self.spec.max_slots + most:
                raise EngineBusyError(
                    f"{self._open} requests run at {self._address} or wait for it, and max_slots="
                    f"{self.spec.max_slots} and max_queue={most} allow no more. Ask again later."
                )
            self._open += 1
            if self._loop is None:
                self._start()
            assert self._loop is not None  # noqa: S101 - started above
            self._loop.call_soon_threadsafe(self._begin, ticket)
        ticket.future.add_done_callback(self._resolved)

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
        """End the thread; whoever waits gets `EngineClosedError`."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(self._over.set)
            if thread is not threading.current_thread():
                thread.join()

    # --- on the worker's thread ----------------------------------------------------------

    async def _run(self, ready: threading.Event) -> None:
        self._over = asyncio.Event()
        self._slots = asyncio.Semaphore(self.spec.max_slots)
        self._loop = asyncio.get_running_loop()
        ready.set()
        async with RemoteServer(self._address, self._made[0]) as server:
            self._server = server
            while not self._over.is_set():
                for ticket, task in list(self._tasks.items()):
                    if ticket.cancelled:
                        task.cancel()
                seconds = LOOK if self._tasks else None
                self._wake = asyncio.Event()
                waits = [asyncio.ensure_future(e.wait()) for e in (self._over, self._wake)]
                await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        # Streams that were left in the middle close on the loop that they were read on, or fail.
        gc.collect()
        await asyncio.sleep(0)

    def _begin(self, ticket: RequestHandle[Any]) -> None:
        task = asyncio.ensure_future(self._serve(ticket))
        self._tasks[ticket] = task
        task.add_done_callback(lambda _: self._tasks.pop(ticket, None))
        if len(self._tasks) == 1 and "_wake" in self.__dict__:
            self._wake.set()

    async def _serve(self, ticket: RequestHandle[Any]) -> None:
        tokenizer, end_ids, context = self._made
        try:
            async with self._slots:
                await self._server.meet()
                self.backend_name = "remote"
                step = RemoteStep(ticket, tokenizer, end_ids, context)
                ticket.resolve(await step.written(self._server))
        except asyncio.CancelledError:
            closed = EngineClosedError(f"{self.spec.name} was closed") if self._closed else None
            ticket.fail(closed)
        except ArbitrageError as error:
            ticket.fail(error)
        except Exception as error:  # whoever waits would wait for ever
            logger.exception("%s failed", self._address)
            failure = EngineError(f"{self._address} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            ticket.fail(failure)


def import_openai() -> ModuleType:
    """The client, or an error that says how to install it."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "models on a server need the openai client, which is not installed: "
            "pip install 'langgraph-arbitrage[remote]'"
        ) from error
    return openai
