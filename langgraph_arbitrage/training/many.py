"""Works on many questions at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["many"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def many(
    items: Iterable[_Item],
    work: Callable[[_Item], Awaitable[_Result]],
    at_a_time: int,
    progress: Callable[[], None] = lambda: None,
) -> list[_Result]:
    """The results in the order of the items; the first error ends all work and is raised.

    Args:
        items: What to work on.
        work: Called with each.
        at_a_time: How many are under way at a time.
        progress: Called after each.
    """
    waiting = iter(enumerate(items))
    found: dict[int, _Result] = {}

    async def worker() -> None:
        for i, item in waiting:
            found[i] = await work(item)
            progress()

    workers = [asyncio.create_task(worker()) for _ in range(at_a_time)]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [found[i] for i in sorted(found)]
