"""A job: skips the questions that are answered, asks the others, writes each line as it comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from langgraph_arbitrage.batch.asking import Asking
from langgraph_arbitrage.batch.output import Output
from langgraph_arbitrage.batch.question import Question, read_question
from langgraph_arbitrage.batch.settings import BatchSettings
from langgraph_arbitrage.batch.source import Source
from langgraph_arbitrage.batch.summary import BatchSummary
from langgraph_arbitrage.errors import (
    DataError,
)

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BatchJob", "arun_batch", "run_batch"]

_T = TypeVar("_T")
Given = str | Path | Iterable[Mapping[str, Any]]
Listener = Callable[[BatchSummary], None]


class BatchJob:
    """Questions of an input, answered into an output.

    Made and entered, everything that can be refused has been: no model is loaded for that.

    Args:
        source: A JSONL file, `-` for stdin, or records as they would stand in its lines.
        output: A JSONL file, or `-` for stdout.
        settings: How the job is run.

    Raises:
        DataError: The input cannot be read, the output cannot be written or belongs to another
            job.
    """

    def __init__(self, source: Given, output: str | Path, settings: BatchSettings) -> None:
        self.settings = settings
        self.source = Source(source)
        path = None if str(output) == "-" else Path(output)
        if path and self.source.path and path.exists() and path.samefile(self.source.path):
            raise DataError(f"{path} is the input itself: give another file to write to")
        self.output = Output(path, retry_failed=settings.retry_failed)
        self.summary = BatchSummary()
        self._repeated: dict[int, int] = {}
        """Lines whose id an earlier line has: number of each, and of that earlier one."""

    def __enter__(self) -> Self:
        self.output.__enter__()
        try:
            self._check()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.output.__exit__(kind, error, trace)
        self.source.close()

    def _check(self) -> None:
        """See what is to be asked, and that the output is this job's."""
        seen: dict[str, int] = {}
        for number, line in self.source.lines():
            question = read_question(number, line)
            if (first := seen.setdefault(question.id, number)) != number:
                self._repeated[number] = first
                question = self._question(number, line)
            state = self.output.state(question)
            if self.settings.has(number):
                self.summary.total += 1
                self.summary.skipped += state == "done"
                self.summary.failed_before += state == "failed"
        self.output.begin()

    def _question(self, number: int, line: bytes) -> Question:
        question = read_question(number, line)
        first = self._repeated.get(number)
        if first is None:
            return question
        return question.without_id(f"line {first} has the same custom_id {question.id!r}")

    def open(self) -> Iterator[Question]:
        """The questions of this shard that have no line yet."""
        for number, line in self.source.lines():
            if self.settings.has(number):
                question = self._question(number, line)
                if self.output.state(question) is None:
                    yield question

    def write(self, record: dict[str, Any], on_line: Listener | None = None) -> None:
        """Add a line to the output, and count it."""
        self.output.append(record)
        self.summary.count(record, failed=record["error"] is not None)
        if on_line is not None:
            on_line(self.summary)

    async def run(self, llm: ChatArbitrage, on_line: Listener | None = None) -> BatchSummary:
        """Answer all open questions.

        Args:
            llm: Who answers; its models are not given back.
            on_line: Called after each line that is written.

        Returns:
            The figures of this run.

        Raises:
            CheckpointError: A model cannot be loaded.
            DataError: The output cannot be written any more.
            EngineError: The models fail at every question.
        """
        asking = Asking(llm, self.settings.concurrency, lambda record: self.write(record, on_line))
        try:
            async with asyncio.timeout(self.settings.max_time):
                if self.summary.left:
                    await asyncio.to_thread(llm.prepare)
                    await asking.all(self.open())
        except TimeoutError:
            self.summary.stopped = "max_time"
        return self.summary


async def arun_batch(
    llm: ChatArbitrage,
    source: Given,
    output: str | Path,
    on_line: Listener | None = None,
    **settings: Any,
) -> BatchSummary:
    """Answer a file of questions into another file; `run_batch`, awaited."""
    with BatchJob(source, output, BatchSettings(**settings)) as job:
        return await job.run(llm, on_line)


def run_batch(
    llm: ChatArbitrage,
    source: Given,
    output: str | Path,
    on_line: Listener | None = None,
    **settings: Any,
) -> BatchSummary:
    """Answer a file of questions into another file, as `arbitrage batch` does.

    Each answer is written as it comes. Started again, what the output has is not asked again: a
    job that was killed goes on. Works inside a running event loop too, as in a notebook.

    Args:
        llm: Who answers.
        source: A JSONL file of OpenAI's batch lines, or of `{"messages": …}` or `{"prompt": …}`;
            `-` for stdin; or such records themselves.
        output: A JSONL file, or `-` for stdout.
        on_line: Called after each line that is written, with the figures so far.
        settings: Fields of `BatchSettings`: `concurrency`, `retry_failed`, `max_time`, `shard`.

    Example:
        >>> from tempfile import mkdtemp
        >>> from langgraph_arbitrage import ChatArbitrage
        >>> from langgraph_arbitrage.batch import run_batch
        >>> llm = ChatArbitrage(max_tokens=200)
        >>> output = mkdtemp() + "/answers.jsonl"
        >>> summary = run_batch(llm, [{"prompt": "What is 2 + 3?"}], output, concurrency=8)
        >>> summary.done, summary.failed, summary.succeeded
        (1, 0, True)

    Raises:
        SettingsError: A setting is outside its range.
        DataError: The input cannot be read, the output cannot be written or belongs to another
            job: before a model is loaded.
        CheckpointError: A model cannot be loaded.
        EngineError: The models fail at every question.
    """
    return _run(arun_batch(llm, source, output, on_line, **settings))


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run on a loop: on one of its own thread where this thread's loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    begun = threading.Event()

    async def noted() -> _T:
        task = asyncio.current_task()
        if task is not None:
            loops.append((asyncio.get_running_loop(), task))
        begun.set()
        return await work

    with ThreadPoolExecutor(1) as beside:
        result = beside.submit(asyncio.run, noted())
        try:
            return result.result()
        except BaseException:  # Ctrl-C, while waiting: the job must not go on
            begun.wait()
            for loop, task in loops:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(task.cancel)
            raise
