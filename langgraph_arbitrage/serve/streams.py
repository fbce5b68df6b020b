"""Answers on their way to a client, who may leave at any moment: then the models stop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from langgraph_arbitrage.serve.failures import clean, failure

__all__ = ["Put", "streamed", "whole"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Put = Callable[[dict[str, Any]], None]
"""Hands a chunk to the client."""
CLIENT_LEFT = 499
DONE = "data: [DONE]\n\n"


async def whole(request: Request, work: Awaitable[_T]) -> _T | Response:
    """The answer; or nothing of interest, if the client left before it was there."""
    task = asyncio.ensure_future(work)
    await _first(request, task)
    return task.result() if task.done() and not task.cancelled() else Response(status_code=499)


async def streamed(request: Request, work: Callable[[Put], Awaitable[None]]) -> Response:
    """Chunks as server-sent events.

    An error before the first chunk has a status of its own; a later one is an event.

    Args:
        request: Of the client.
        work: Puts chunks until the answer is complete. It runs as a task of its own, so that
            cancelling it is up to it alone: the server cancels at every await.
    """
    chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(chunks.put_nowait))
    task.add_done_callback(lambda _: chunks.put_nowait(None))
    first = asyncio.ensure_future(chunks.get())
    await _first(request, first, task)
    if not first.done() or first.cancelled():
        return Response(status_code=CLIENT_LEFT)
    if first.result() is None:
        task.result()  # raises: an answer has chunks
    return StreamingResponse(
        _events(first.result(), chunks, task),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    first: dict[str, Any] | None,
    chunks: asyncio.Queue[dict[str, Any] | None],
    task: asyncio.Future[None],
) -> AsyncIterator[str]:
    try:
        chunk = first
        while chunk is not None:
            yield _event(chunk)
            chunk = await chunks.get()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a stream failed", exc_info=error)
            yield _event(clean(failure(error)[1]))  # type: ignore[arg-type]
        yield DONE
    finally:
        task.cancel()


async def _first(request: Request, *tasks: asyncio.Future[Any]) -> None:
    """Wait for the first of the tasks; where the client leaves before, cancel all."""
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({tasks[0], gone}, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            for task in tasks:
                task.cancel()
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    finally:
        gone.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
