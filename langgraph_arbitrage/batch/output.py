"""The output of a job: the records of earlier runs, to which new records are appended."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from langgraph_arbitrage.batch.request import BatchRequest
from langgraph_arbitrage.batch.result import is_error_record, request_digest
from langgraph_arbitrage.data.jsonl import JsonlFile
from langgraph_arbitrage.errors import DataError

__all__ = ["BatchOutput"]


class BatchOutput:
    """Context manager that reads the existing records of an output and appends new ones.

    Args:
        path: Path of the file; None for stdout.
        retry_failed: Ignore existing error records and replace them.

    Raises:
        DataError: The file cannot be written, or it is not the output of a batch job.
    """

    def __init__(self, path: Path | None, *, retry_failed: bool) -> None:
        self.path = path
        self._retry_failed = retry_failed
        # A pipe or device holds no records of earlier runs.
        self._jsonl = JsonlFile(path) if path and (path.is_file() or not path.exists()) else None
        self._stream: Any = None
        self._existing: dict[str, tuple[str | None, bool]] = {}
        """Request digest of each existing custom_id, and whether the request failed."""
        self._unmatched: set[str] = set()
        """Existing custom_ids that no line of the input has matched yet."""
        self._has_retries = False

    def __enter__(self) -> Self:
        if self._jsonl is not None:
            self._jsonl.__enter__()
            try:
                self._read(self._jsonl)
            except BaseException:
                self._jsonl.__exit__(None, None, None)
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
        if self._jsonl is not None:
            self._jsonl.__exit__(kind, error, trace)
        elif self.path is not None:
            self._stream.close()

    def _read(self, jsonl: JsonlFile) -> None:
        for entry in jsonl.entries():
            try:
                failed = is_error_record(entry.record)
            except DataError as error:
                raise DataError(
                    f"{jsonl.path}, line {entry.number}: {error}. Choose another output file"
                ) from None
            if not (failed and self._retry_failed):
                self._existing[entry.record["custom_id"]] = (request_digest(entry.record), failed)
            else:
                self._has_retries = True
        self._unmatched = set(self._existing)

    def state(self, request: BatchRequest) -> Literal["done", "failed"] | None:
        """Whether a request has a record already; None if it has none.

        Raises:
            DataError: The record with this custom_id answers a different request.
        """
        existing = self._existing.get(request.custom_id)
        if existing is None:
            return None
        self._unmatched.discard(request.custom_id)
        digest, failed = existing
        if digest not in (None, request.digest):
            hint = ". If you corrected the request, add --retry-failed" if failed else ""
            raise DataError(
                f"{self.path} belongs to another job: its record with the custom_id "
                f"{request.custom_id!r} answers a different request than line "
                f"{request.line_number} of the input. Choose another output file{hint}"
            )
        return "failed" if failed else "done"

    def begin(self) -> None:
        """Prepare the file for appending. Call it after `state` for every line of the input.

        Raises:
            DataError: The file has records of requests that are not in the input.
        """
        if self._jsonl is None:
            return
        if self._unmatched:
            raise DataError(
                f"{self.path} belongs to another job: the input does not contain "
                f"{len(self._unmatched)} of its custom_ids, such as {min(self._unmatched)!r}. "
                "Choose another output file"
            )
        self._jsonl.repair()
        if self._has_retries:
            self._jsonl.retain(lambda record: not is_error_record(record))

    def append(self, record: dict[str, Any]) -> None:
        """Append a record. It survives the end of the process once this returns."""
        if self._jsonl is not None:
            self._jsonl.append(record)
            return
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()
