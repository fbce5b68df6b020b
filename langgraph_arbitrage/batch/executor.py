"""Answers requests concurrently. A request that fails does not affect the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch.request import BatchRequest
from langgraph_arbitrage.batch.result import error_record, success_record
from langgraph_arbitrage.errors import (
    ArbitrageError,
    CheckpointError,
    DataError,
    EngineBusyError,
    EngineClosedError,
    EngineError,
    NotEnoughMemoryError,
)
from langgraph_arbitrage.prompts.messages import read_messages

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BatchExecutor"]

logger = logging.getLogger(__name__)

BUSY_RETRY_SECONDS = 0.05
"""Pause before a request that found the queue full is submitted again."""
MAX_FAILURES = 8
"""Consecutive engine failures, in addition to two per concurrent request, that end the job."""


class BatchExecutor:
    """Answers the requests of one run.

    An engine failure ends all requests in progress, so its cause is unknown. The affected requests
    are repeated one by one at the end; a request that fails again gets an error record.

    Args:
        llm: Chat model that answers.
        concurrency: Maximum number of concurrent requests.
        write: Called with the output record of each request.
    """

    def __init__(
        self, llm: ChatArbitrage, concurrency: int, write: Callable[[dict[str, Any]], None]
    ) -> None:
        self._llm = llm
        self._concurrency = concurrency
        self._write = write
        self._retries: list[BatchRequest] = []
        self._failures = 0  # of the engines since the last answer

    async def run(self, requests: Iterator[BatchRequest]) -> None:
        """Answer all requests.

        Raises:
            CheckpointError: A model cannot be loaded.
            EngineError: The engines fail at every request.
        """
        await self._run(requests, self._concurrency, is_retry=False)
        retries, self._retries = self._retries, []
        await self._run(iter(retries), 1, is_retry=True)

    async def _run(
        self, requests: Iterator[BatchRequest], concurrency: int, *, is_retry: bool
    ) -> None:
        async def work() -> None:
            for request in requests:
                await self._process(request, is_retry=is_retry)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _process(self, request: BatchRequest, *, is_retry: bool) -> None:
        try:
            if request.error is not None:
                raise DataError(request.error)
            message = await self._answer(request)
        except (CheckpointError, EngineClosedError):
            raise  # every other request would fail in the same way
        except (EngineError, NotEnoughMemoryError) as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES + 2 * self._concurrency:
                raise EngineError(
                    f"the models failed {self._failures} times without one answer. The remaining "
                    f"requests have no output line, so the next run answers them. Last cause: "
                    f"{error}"
                ) from error
            if not is_retry:
                self._retries.append(request)
                return
            record = error_record(request, error)
        except ArbitrageError as error:
            record = error_record(request, error)
        except Exception as error:  # an unexpected error of one request must not end the job
            logger.exception("line %d failed", request.line_number)
            record = error_record(request, error)
        else:
            self._failures = 0
            record = success_record(request, message)
        self._write(record)

    async def _answer(self, request: BatchRequest) -> Any:
        messages = read_messages(request.messages)
        while True:
            try:
                return await self._llm.ainvoke(messages, **request.options)
            except EngineBusyError:  # other users of the same engines fill the queue
                await asyncio.sleep(BUSY_RETRY_SECONDS)
