"""The input: numbered lines that can be read twice, from a file, from stdin or from a program."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from langgraph_arbitrage.errors import DataError

__all__ = ["Source"]


class Source:
    """The lines of an input.

    Args:
        given: A path, `-` for stdin, or records as they would stand in the lines of a file.

    Raises:
        DataError: The file cannot be read.
    """

    def __init__(self, given: str | Path | Iterable[Mapping[str, Any]]) -> None:
        self.path: Path | None = None
        if isinstance(given, str | Path):
            self.name = "stdin" if str(given) == "-" else str(given)
            self.path = None if str(given) == "-" else Path(given)
            self._file = self._opened()
        else:
            self.name = "the questions"
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            for record in given:
                self._file.write(json.dumps(record).encode() + b"\n")

    def _opened(self) -> IO[bytes]:
        try:
            file = sys.stdin.buffer if self.path is None else self.path.open("rb")
            if self.path is not None and self.path.is_file():
                return file
            # A pipe is read once: to check all lines, and to ask them later, it has to be kept.
            kept = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            shutil.copyfileobj(file, kept)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}") from None
        return kept

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number, from 1, and bytes of each line that is not empty."""
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            mark = b"\xef\xbb\xbf" if number == 1 else b""  # of the byte order
            if text := line.removeprefix(mark).strip():
                yield number, text

    def close(self) -> None:
        """Close the file."""
        self._file.close()
