"""A file of JSON lines that survives a kill: what is whole stays, a torn end is cut off."""

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
    """A whole line."""

    number: int
    """Which line of the file, from 1."""
    end: int
    """Bytes up to its end: what `cut` takes."""
    record: Any


class JsonlFile:
    """Appends records to a file, one line and one write each, and reads those that are there.

    While it is open no other one can be opened on the same file. Nothing in the file is changed
    before `repair`, `cut` or `append` is called, so that one can see first whose file it is.

    A line is with the system once `append` returns: killing the program loses nothing. A power
    cut may lose what the system has not written yet.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "rows.jsonl"
        >>> with JsonlFile(path) as journal:
        ...     journal.append({"id": 1})
        >>> _ = path.write_bytes(path.read_bytes() + b'{"id": 2, "te')  # killed while it wrote
        >>> with JsonlFile(path) as journal:
        ...     journal.repair()
        ...     [entry.record for entry in journal.entries()]
        [{'id': 1}]

    Raises:
        DataError: The file cannot be written, or another journal is open on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # a link stays one when the file is replaced
        self._file = -1

    def __enter__(self) -> Self:
        try:
            self._file = _opened(self.path)
        except BlockingIOError:
            raise DataError(
                f"{self.path} is being written by another job: wait until it has ended, or give "
                "another file"
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
        """The whole lines, in order; a torn one at the end is left out.

        Raises:
            DataError: A line is no JSON.
        """
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                end += len(line)
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    if not line.endswith(b"\n") and line.startswith(b"{"):
                        return  # torn
                    raise DataError(
                        f"{self.path}, line {number} is no JSON: give another file to write to"
                    ) from None
                yield Entry(number, end, record)

    def repair(self) -> None:
        """Cut off a torn line; end a whole one that lacks its line end."""
        end = max((entry.end for entry in self.entries()), default=0)
        self.cut(end)
        if end:
            with self.path.open("rb") as file:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    _write(self._file, b"\n")

    def cut(self, end: int) -> None:
        """Leave the first `end` bytes."""
        if end < os.fstat(self._file).st_size:
            os.ftruncate(self._file, end)

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        """Leave the records that are wanted; at every moment the old file or the new one is there.

        Call it on a file that is repaired.
        """
        part = self.path.with_name(self.path.name + ".part")
        part.unlink(missing_ok=True)  # of a program that was killed
        new = _opened(part)  # held already when it takes the old one's place
        for entry in self.entries():
            if wanted(entry.record):
                _write(new, _line(entry.record))
        os.fsync(new)
        part.replace(self.path)
        os.close(self._file)
        self._file = new

    def append(self, record: Any) -> None:
        """Add a record.

        Raises:
            DataError: It cannot be written, as on a full disk.
        """
        try:
            _write(self._file, _line(record))
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error


def _opened(path: Path) -> int:
    """A descriptor to append by, held against others."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        if sys.platform == "win32":
            return file  # two programs at one file are not noticed there
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another job has put a new file in its place meanwhile


def _line(record: Any) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which only an escape can hold
        return json.dumps(record).encode() + b"\n"


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
