"""The input of a job: numbered lines from a file, stdin or Python records, read twice."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from langgraph_arbitrage.errors import DataError

__all__ = ["BatchSource"]


class BatchSource:
    """The lines of an input. They can be iterated several times.

    Args:
        source: Path of a JSONL file, `-` for stdin, or records, each the content of one line.

    Raises:
        DataError: The file cannot be read.
    """

    def __init__(self, source: str | Path | Iterable[Mapping[str, Any]]) -> None:
        self.path: Path | None = None
        if isinstance(source, str | Path):
            self.name = "stdin" if str(source) == "-" else str(source)
            self.path = None if str(source) == "-" else Path(source)
            self._file = self._open()
        else:
            self.name = "the records"
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            for record in source:
                self._file.write(json.dumps(record).encode() + b"\n")

    def _open(self) -> IO[bytes]:
        try:
            file = sys.stdin.buffer if self.path is None else self.path.open("rb")
            if self.path is not None and self.path.is_file():
                return file
            # A pipe can be read only once, but its lines are first checked and later answered.
            copy = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            shutil.copyfileobj(file, copy)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}") from None
        return copy

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the line number, from 1, and the content of each line that is not blank."""
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            byte_order_mark = b"\xef\xbb\xbf" if number == 1 else b""
            if text := line.removeprefix(byte_order_mark).strip():
                yield number, text

    def close(self) -> None:
        """Close the file."""
        self._file.close()
