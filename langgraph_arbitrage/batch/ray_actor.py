"""What a Ray actor runs: the models of its own, asked batch by batch."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from langgraph_arbitrage.batch.asking import Asking
from langgraph_arbitrage.batch.question import Question, read_question

__all__ = ["Answers"]


class Answers:
    """A callable class for `ray.data.Dataset.map_batches`.

    A row holds what a line of a batch job's input holds, such as a `prompt`; its answer is a row
    with `custom_id` and `line`, the JSON of the job's output line. Rows come in the order of the
    batch, each as soon as it and those before it are there.

    Args:
        settings: Fields of `ArbitrageSettings`.
        concurrency: Most questions at a time.

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
        """The answers of a batch's rows.

        Raises:
            CheckpointError: A model cannot be loaded.
            EngineError: The models fail at every question.
        """
        questions = _questions(batch)
        told: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        asking = Asking(self._llm, self._concurrency, told.put)
        work = asyncio.run_coroutine_threadsafe(asking.all(iter(questions)), self._loop)
        work.add_done_callback(lambda _: told.put(None))
        found: dict[str, dict[str, Any]] = {}
        waiting = iter(questions)
        # In order: a batch that is asked again after the death of an actor has the same rows.
        head = next(waiting, None)
        while (record := told.get()) is not None:
            found[record["custom_id"]] = record
            while head is not None and head.id in found:
                yield {"custom_id": [head.id], "line": [json.dumps(found.pop(head.id))]}
                head = next(waiting, None)
        work.result()


def _questions(batch: Mapping[str, Any]) -> list[Question]:
    """Those of a job, as they are; else a row is a line."""
    if "question" in batch and set(batch) == {"question"}:
        return [Question(**json.loads(text)) for text in batch["question"]]
    rows = zip(*(_plain(column) for column in batch.values()), strict=True)
    records = [dict(zip(batch, row, strict=True)) for row in rows]
    return [read_question(i, json.dumps(r).encode()) for i, r in enumerate(records, 1)]


def _plain(column: Any) -> Any:
    """A column's values as JSON has them."""
    return column.tolist() if hasattr(column, "tolist") else column
