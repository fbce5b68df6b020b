"""Records of questions: the lines of a JSONL file, or the rows of a data set of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langgraph_arbitrage.errors import DataError

__all__ = ["cell", "read_records"]


def read_records(source: str, split: str, extra: str) -> Iterable[Mapping[str, Any]]:
    """The records of a source, one after the other.

    Args:
        source: A JSONL file, or a data set of the hub (`owner/name` or `owner/name:config`).
        split: Split of a data set of the hub.
        extra: The extra of this package that brings what reads the hub, for the message.

    Raises:
        DataError: The source is not there, or is not what it should be.
    """
    path = Path(source)
    if path.is_file():
        return _lines(path)
    if path.suffix in (".jsonl", ".json") or source.startswith((".", "/", "embedded:")):
        raise DataError(
            f"{source} is no file here. Questions come from a JSONL file, from embedded:N:SEED, "
            "or from a data set of the hub such as openai/gsm8k:main"
        )
    return _hub(source, split, extra)


def _lines(path: Path) -> Iterable[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise DataError(f"{path}, line {number}: no JSON object")
                    yield record
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is no JSONL file: {error}") from None


def _hub(source: str, split: str, extra: str) -> Iterable[Mapping[str, Any]]:
    if find_spec("datasets") is None:
        raise DataError(
            f"{source} is no file here, and reading it from the hub needs datasets: "
            f"pip install 'langgraph-arbitrage[{extra}]'"
        )
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        return load_dataset(name, config or None, split=split)  # type: ignore[no-any-return]
    except Exception as error:  # datasets raises its own, the hub's and fsspec's
        raise DataError(f"{source} (split {split}) cannot be loaded: {error}") from error


def cell(record: Mapping[str, Any], column: str, source: str) -> str:
    """A column of a record, as text.

    Raises:
        DataError: There is no such column; the message lists those there are.
    """
    if column not in record:
        raise DataError(
            f"{source} has no column {column!r}; its columns are {', '.join(map(repr, record))}"
        )
    return str(record[column])
