"""Records of questions: lines of a JSONL file, or rows of a dataset on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langgraph_arbitrage.errors import DataError

__all__ = ["column_text", "read_records"]


def read_records(source: str, split: str, extra: str) -> Iterable[Mapping[str, Any]]:
    """Read the records of a source.

    Args:
        source: Path of a JSONL file, or a dataset on the hub (`owner/name` or
            `owner/name:config`).
        split: Split of a dataset on the hub.
        extra: Extra of this package that installs `datasets`, for the error message.

    Raises:
        DataError: The source does not exist or cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return _read_file(path)
    if path.suffix in (".jsonl", ".json") or source.startswith((".", "/", "embedded:")):
        raise DataError(
            f"{source} does not exist. Pass a JSONL file, embedded:N:SEED, or a dataset on the "
            "hub such as openai/gsm8k:main"
        )
    return _load_from_hub(source, split, extra)


def _read_file(path: Path) -> Iterable[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise DataError(f"{path}, line {number} is not a JSON object")
                    yield record
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is not a valid JSONL file: {error}") from None


def _load_from_hub(source: str, split: str, extra: str) -> Iterable[Mapping[str, Any]]:
    if find_spec("datasets") is None:
        raise DataError(
            f"{source} is not a local file, and loading it from the hub needs datasets, which is "
            f"not installed: pip install 'langgraph-arbitrage[{extra}]'"
        )
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        return load_dataset(name, config or None, split=split)  # type: ignore[no-any-return]
    except Exception as error:  # datasets, huggingface_hub and fsspec raise many types
        raise DataError(f"{source} (split {split}) cannot be loaded: {error}") from error


def column_text(record: Mapping[str, Any], column: str, source: str) -> str:
    """Return a column of a record as text.

    Args:
        record: The record.
        column: Name of the column.
        source: Source of the record, for the error message.

    Raises:
        DataError: The record has no such column. The message lists its columns.
    """
    if column not in record:
        raise DataError(
            f"{source} has no column {column!r}; its columns are {', '.join(map(repr, record))}"
        )
    return str(record[column])
