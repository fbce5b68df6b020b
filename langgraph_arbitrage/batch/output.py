"""The output: which questions have their line already, and the lines that are added."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langgraph_arbitrage.batch.question import Question
from langgraph_arbitrage.batch.result import digest_of, has_failed
from langgraph_arbitrage.data.jsonl import JsonlFile
from langgraph_arbitrage.errors import DataError

__all__ = ["Output"]


class Output:
    """Takes the lines of a job; a file is appended to, and is read first.

    Args:
        path: Where to; None for stdout.
        retry_failed: Treat lines of failures as if they were not there.

    Raises:
        DataError: The file cannot be written, or is no output of a batch job.
    """

    def __init__(self, path: Path | None, *, retry_failed: bool) -> None:
        self.path = path
        self._retry_failed = retry_failed
        # A pipe or a device has nothing to go on from.
        self._journal = JsonlFile(path) if path and (path.is_file() or not path.exists()) else None
        self._stream: Any = None
        self._there: dict[str, tuple[str | None, bool]] = {}
        """Digest of each id that is there, and whether it has failed."""
        self._unknown: set[str] = set()
        """Ids that are there and that no question was found for yet."""
        self._replaces = False

    def __enter__(self) -> Self:
        if self._journal is not None:
            self._journal.__enter__()
            try:
                self._read(self._journal)
            except BaseException:
                self._journal.__exit__(None, None, None)
                raise
        elif self.path is not None:
            try:
                self._stream = self.path.open("wb")
            except OSError as error:
                raise DataError(f"{self.path} cannot be written: {error.strerror}") from None
        else:
            self._stream = sys.stdout.buffer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal is not None:
            self._journal.__exit__(kind, error, trace)
        elif self.path is not None:
            self._stream.close()

    def _read(self, journal: JsonlFile) -> None:
        for entry in journal.entries():
            try:
                failed = has_failed(entry.record)
            except DataError as error:
                raise DataError(
                    f"{journal.path}, line {entry.number}: {error}. Give another file to write to."
                ) from None
            if not (failed and self._retry_failed):
                self._there[entry.record["custom_id"]] = (digest_of(entry.record), failed)
            else:
                self._replaces = True
        self._unknown = set(self._there)

    def state(self, question: Question) -> str | None:
        """`done` or `failed` where the question has its line, else None.

        Raises:
            DataError: The line is that of another question with the same id.
        """
        found = self._there.get(question.id)
        if found is None:
            return None
        self._unknown.discard(question.id)
        digest, failed = found
        if digest not in (None, question.digest):
            hint = " If the question was corrected, add --retry-failed." if failed else ""
            raise DataError(
                f"{self.path} holds the line of another question with the id {question.id!r}, "
                f"which line {question.number} of the input has: it belongs to another job. Give "
                f"another file to write to.{hint}"
            )
        return "failed" if failed else "done"

    def begin(self) -> None:
        """Once every question of the input was looked up: repair the file, ready to append.

        Raises:
            DataError: There are lines of questions that the input does not have.
        """
        if self._journal is None:
            return
        if self._unknown:
            raise DataError(
                f"{self.path} holds {len(self._unknown)} ids that the input does not have, such as "
                f"{min(self._unknown)!r}: it belongs to another job. Give another file to write to."
            )
        self._journal.repair()
        if self._replaces:
            self._journal.keep(lambda record: not has_failed(record))

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; it is with the system once this returns."""
        if self._journal is not None:
            self._journal.append(record)
            return
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()
