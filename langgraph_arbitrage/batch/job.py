"""A batch job: skips answered requests, answers the others and writes each record immediately."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from langgraph_arbitrage.batch.executor import BatchExecutor
from langgraph_arbitrage.batch.output import BatchOutput
from langgraph_arbitrage.batch.request import BatchRequest, parse_request
from langgraph_arbitrage.batch.settings import BatchSettings
from langgraph_arbitrage.batch.source import BatchSource
from langgraph_arbitrage.batch.summary import BatchSummary
from langgraph_arbitrage.errors import DataError

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BatchJob", "arun_batch", "run_batch"]

_T = TypeVar("_T")
SourceLike = str | Path | Iterable[Mapping[str, Any]]
SummaryListener = Callable[[BatchSummary], None]


class BatchJob:
    """Answers the requests of an input into an output.

    Entering the context validates input and output completely, without loading a model.

    Args:
        source: Path of a JSONL file, `-` for stdin, or records, each the content of one line.
        output: Path of a JSONL file, or `-` for stdout.
        settings: Settings of the job.

    Raises:
        DataError: The input cannot be read, the output cannot be written, or the output belongs
            to another job.
    """

    def __init__(self, source: SourceLike, output: str | Path, settings: BatchSettings) -> None:
        self.settings = settings
        self.source = BatchSource(source)
        path = None if str(output) == "-" else Path(output)
        if path and self.source.path and path.exists() and path.samefile(self.source.path):
            raise DataError(f"{path} is both input and output. Choose another output file")
        self.output = BatchOutput(path, retry_failed=settings.retry_failed)
        self.summary = BatchSummary()
        self._duplicates: dict[int, int] = {}
        """Line numbers with the custom_id of an earlier line, and that line's number."""

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
        """Count the requests and verify that the output belongs to this job."""
        first_lines: dict[str, int] = {}
        for number, line in self.source.lines():
            request = parse_request(number, line)
            if (first := first_lines.setdefault(request.custom_id, number)) != number:
                self._duplicates[number] = first
                request = self._parse(number, line)
            state = self.output.state(request)
            if self.settings.includes(number):
                self.summary.total += 1
                self.summary.skipped += state == "done"
                self.summary.failed_before += state == "failed"
        self.output.begin()

    def _parse(self, number: int, line: bytes) -> BatchRequest:
        """Parse a line. A line with the custom_id of an earlier line is rejected."""
        request = parse_request(number, line)
        first = self._duplicates.get(number)
        if first is None:
            return request
        return request.rejected(f"line {first} has the same custom_id {request.custom_id!r}")

    def pending(self) -> Iterator[BatchRequest]:
        """Yield the requests of this shard that have no record in the output."""
        for number, line in self.source.lines():
            if self.settings.includes(number):
                request = self._parse(number, line)
                if self.output.state(request) is None:
                    yield request

    def write(self, record: dict[str, Any], on_line: SummaryListener | None = None) -> None:
        """Append a record to the output and count it."""
        self.output.append(record)
        self.summary.count(record, failed=record["error"] is not None)
        if on_line is not None:
            on_line(self.summary)

    async def run(self, llm: ChatArbitrage, on_line: SummaryListener | None = None) -> BatchSummary:
        """Answer all pending requests.

        Args:
            llm: Chat model that answers. It is not closed.
            on_line: Called with the summary after each record is written.

        Returns:
            The summary of this run.

        Raises:
            CheckpointError: A model cannot be loaded.
            DataError: The output can no longer be written.
            EngineError: The models fail at every request.
        """
        executor = BatchExecutor(
            llm, self.settings.concurrency, lambda record: self.write(record, on_line)
        )
        try:
            async with asyncio.timeout(self.settings.max_time):
                if self.summary.remaining:
                    await asyncio.to_thread(llm.prepare)
                    await executor.run(self.pending())
        except TimeoutError:
            self.summary.stopped = "max_time"
        return self.summary


async def arun_batch(
    llm: ChatArbitrage,
    source: SourceLike,
    output: str | Path,
    on_line: SummaryListener | None = None,
    **settings: Any,
) -> BatchSummary:
    """`run_batch`, async."""
    with BatchJob(source, output, BatchSettings(**settings)) as job:
        return await job.run(llm, on_line)


def run_batch(
    llm: ChatArbitrage,
    source: SourceLike,
    output: str | Path,
    on_line: SummaryListener | None = None,
    **settings: Any,
) -> BatchSummary:
    """Answer a file of requests into another file, as `arbitrage batch` does.

    Each answer is written as soon as it is complete. A repeated call skips the requests that the
    output already answers, so an interrupted job resumes. The function also works inside a running
    event loop, for example in a notebook.

    Args:
        llm: Chat model that answers.
        source: Path of a JSONL file whose lines are OpenAI batch requests, `{"messages": …}` or
            `{"prompt": …}`; `-` for stdin; or an iterable of such records.
        output: Path of a JSONL file, or `-` for stdout.
        on_line: Called with the summary so far after each record is written.
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
        DataError: The input cannot be read, the output cannot be written, or the output belongs
            to another job. Raised before a model is loaded.
        CheckpointError: A model cannot be loaded.
        EngineError: The models fail at every request.
    """
    return _run(arun_batch(llm, source, output, on_line, **settings))


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine. If this thread's event loop is running, use a loop in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    started = threading.Event()

    async def register_and_run() -> _T:
        task = asyncio.current_task()
        if task is not None:
            tasks.append((asyncio.get_running_loop(), task))
        started.set()
        return await work

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(asyncio.run, register_and_run())
        try:
            return result.result()
        except BaseException:  # Ctrl-C during the wait must cancel the job as well
            started.wait()
            for loop, task in tasks:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(task.cancel)
            raise
