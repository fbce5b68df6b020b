"""A JSON Lines file that survives a killed process: an incomplete last line is removed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langgraph_arbitrage.errors import DataError

if sys.platform != "win32":
    import fcntl

__all__ = ["Entry", "JsonlFile"]


@dataclass(frozen=True)
class Entry:
    """A complete line of the file."""

    number: int
    """Line number, from 1."""
    end: int
    """Byte offset of the end of the line, for `JsonlFile.cut`."""
    record: Any


class JsonlFile:
    """Reads the records of a file and appends new ones, each as one line in one write.

    While the file is open, it is locked against other processes. Opening does not change it, so
    that the existing records can be checked before `repair`, `cut`, `retain` or `append`.

    A record that `append` has written survives the end of the process. A power failure may lose
    records that the operating system has not written to disk.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "rows.jsonl"
        >>> with JsonlFile(path) as file:
        ...     file.append({"id": 1})
        >>> _ = path.write_bytes(path.read_bytes() + b'{"id": 2, "te')  # killed during a write
        >>> with JsonlFile(path) as file:
        ...     file.repair()
        ...     [entry.record for entry in file.entries()]
        [{'id': 1}]

    Raises:
        DataError: The file cannot be written, or another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # `retain` replaces the target of a symbolic link, not the link
        self._file = -1

    def __enter__(self) -> Self:
        try:
            self._file = _open_locked(self.path)
        except BlockingIOError:
            raise DataError(
                f"{self.path} is being written by another job. Wait until it has finished, or "
                "choose another file"
            ) from None
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def entries(self) -> Iterator[Entry]:
        """Yield the complete lines in order. An incomplete last line is skipped.

        Raises:
            DataError: A line is not valid JSON.
        """
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                end += len(line)
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    if not line.endswith(b"\n") and line.startswith(b"{"):
                        return  # incomplete
                    raise DataError(
                        f"{self.path}, line {number} is not valid JSON. Choose another file"
                    ) from None
                yield Entry(number, end, record)

    def repair(self) -> None:
        """Remove an incomplete last line, and terminate a complete one that lacks its newline."""
        end = max((entry.end for entry in self.entries()), default=0)
        self.cut(end)
        if end:
            with self.path.open("rb") as file:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    _write(self._file, b"\n")

    def cut(self, end: int) -> None:
        """Truncate the file to its first `end` bytes."""
        if end < os.fstat(self._file).st_size:
            os.ftruncate(self._file, end)

    def retain(self, predicate: Callable[[Any], bool]) -> None:
        """Remove the records for which `predicate` is false.

        The file is replaced atomically. Call `repair` first.
        """
        part = self.path.with_name(self.path.name + ".part")
        part.unlink(missing_ok=True)  # left by a process that was killed here
        new_file = _open_locked(part)  # locked before it replaces the old file
        for entry in self.entries():
            if predicate(entry.record):
                _write(new_file, _to_line(entry.record))
        os.fsync(new_file)
        part.replace(self.path)
        os.close(self._file)
        self._file = new_file

    def append(self, record: Any) -> None:
        """Append a record.

        Raises:
            DataError: The record cannot be written, for example because the disk is full.
        """
        try:
            _write(self._file, _to_line(record))
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error


def _open_locked(path: Path) -> int:
    """Open a file for appending and lock it; returns the file descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        if sys.platform == "win32":
            return file  # not locked: Windows has no fcntl
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another job replaced the file in the meantime


def _to_line(record: Any) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # an unpaired surrogate, which only an escape can express
        return json.dumps(record).encode() + b"\n"


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
