"""The Ray actor of a batch job: loads the models and answers batches of rows."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from langgraph_arbitrage.batch.executor import BatchExecutor
from langgraph_arbitrage.batch.request import BatchRequest, parse_request

__all__ = ["Answers"]


class Answers:
    """A callable class for `ray.data.Dataset.map_batches`.

    A row holds the fields of one input line of a batch job, such as `prompt`. Its result is a row
    with `custom_id` and `line`, the output record as JSON. Results are yielded in the order of the
    batch, each as soon as it and all results before it are complete.

    Args:
        settings: Fields of `ArbitrageSettings`.
        concurrency: Maximum number of concurrent requests.

    Example:
        `rows.map_batches(Answers, fn_constructor_kwargs={"settings": {"target": "…"}},
        compute=ray.data.ActorPoolStrategy(size=2), num_gpus=1)`
    """

    def __init__(self, settings: Mapping[str, Any] | None = None, concurrency: int = 32) -> None:
        from langgraph_arbitrage.chat_model import ChatArbitrage

        self._llm = ChatArbitrage(**{"max_slots": concurrency, **(settings or {})})
        self._llm.prepare()
        self._concurrency = concurrency
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Answer a batch of rows.

        Raises:
            CheckpointError: A model cannot be loaded.
            EngineError: The models fail at every request.
        """
        requests = _requests(batch)
        records: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        executor = BatchExecutor(self._llm, self._concurrency, records.put)
        work = asyncio.run_coroutine_threadsafe(executor.run(iter(requests)), self._loop)
        work.add_done_callback(lambda _: records.put(None))
        completed: dict[str, dict[str, Any]] = {}
        remaining = iter(requests)
        # If Ray repeats a batch after the death of an actor, the results must have the same order.
        head = next(remaining, None)
        while (record := records.get()) is not None:
            completed[record["custom_id"]] = record
            while head is not None and head.custom_id in completed:
                line = json.dumps(completed.pop(head.custom_id))
                yield {"custom_id": [head.custom_id], "line": [line]}
                head = next(remaining, None)
        work.result()


def _requests(batch: Mapping[str, Any]) -> list[BatchRequest]:
    """The requests of a batch: serialized by `run_on_ray`, or the fields of input lines."""
    if set(batch) == {"request"}:
        return [BatchRequest(**json.loads(text)) for text in batch["request"]]
    rows = zip(*(_to_list(column) for column in batch.values()), strict=True)
    records = [dict(zip(batch, row, strict=True)) for row in rows]
    return [parse_request(i, json.dumps(r).encode()) for i, r in enumerate(records, 1)]


def _to_list(column: Any) -> Any:
    """Convert a NumPy column to values that JSON can encode."""
    return column.tolist() if hasattr(column, "tolist") else column
