"""Sends answers to clients. If a client disconnects, its answer is cancelled."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from langgraph_arbitrage.serve.errors import status_and_body, without_surrogates

__all__ = ["SendChunk", "run_until_disconnect", "stream_response"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
SendChunk = Callable[[dict[str, Any]], None]
"""Sends a chunk to the client."""
CLIENT_DISCONNECTED = 499
"""Status of a response that the client does not receive, as in nginx."""
DONE = "data: [DONE]\n\n"


async def run_until_disconnect(request: Request, work: Awaitable[_T]) -> _T | Response:
    """Await the answer, or cancel it and return an empty response if the client disconnects."""
    task = asyncio.ensure_future(work)
    await _wait_or_cancel(request, task)
    if task.done() and not task.cancelled():
        return task.result()
    return Response(status_code=CLIENT_DISCONNECTED)


async def stream_response(
    request: Request, work: Callable[[SendChunk], Awaitable[None]]
) -> Response:
    """Stream chunks as server-sent events.

    An exception before the first chunk sets the HTTP status. A later one is sent as an event.

    Args:
        request: Request of the client.
        work: Coroutine function that sends chunks until the answer is complete. It runs in its
            own task, because the server may cancel this one at any await.
    """
    chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(chunks.put_nowait))
    task.add_done_callback(lambda _: chunks.put_nowait(None))
    first = asyncio.ensure_future(chunks.get())
    await _wait_or_cancel(request, first, task)
    if not first.done() or first.cancelled():
        return Response(status_code=CLIENT_DISCONNECTED)
    if first.result() is None:
        task.result()  # raises, because a complete answer has at least one chunk
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
            yield _event(without_surrogates(status_and_body(error)[1]))  # type: ignore[arg-type]
        yield DONE
    finally:
        task.cancel()


async def _wait_or_cancel(request: Request, *tasks: asyncio.Future[Any]) -> None:
    """Wait for the first task. If the client disconnects earlier, cancel all tasks."""
    disconnect = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({tasks[0], disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            for task in tasks:
                task.cancel()
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    finally:
        disconnect.cancel()


async def _disconnect(request: Request) -> None:
    """Wait until the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
