"""Run an async function over many items with a limit on concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["map_concurrently"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def map_concurrently(
    items: Iterable[_Item],
    function: Callable[[_Item], Awaitable[_Result]],
    limit: int,
    progress: Callable[[], None] = lambda: None,
) -> list[_Result]:
    """Apply an async function to all items and return the results in the items' order.

    The first error cancels the remaining work and is raised.

    Args:
        items: Arguments of the calls.
        function: Called once with each item.
        limit: Maximum number of concurrent calls.
        progress: Called after each finished item.
    """
    pending = iter(enumerate(items))
    results: dict[int, _Result] = {}

    async def worker() -> None:
        for i, item in pending:
            results[i] = await function(item)
            progress()

    workers = [asyncio.create_task(worker()) for _ in range(limit)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[i] for i in sorted(results)]
