"""The answers file of a sweep: its name, records and header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.models.identifiers import local_path, public_name

__all__ = ["ANSWERS", "FORMAT", "VERSION", "Record", "check_header", "checkpoint_identity"]

ANSWERS = "answers.jsonl"
FORMAT, VERSION = "langgraph_arbitrage answers", 2

Record = dict[str, Any]
"""A line of the file: the header, the points, or an answer at a point."""


def checkpoint_identity(checkpoint: str | None) -> list[str] | None:
    """Return the name of a router or PRM and, for a local folder, a digest of its files.

    A sweep compares the digests to detect a checkpoint that was trained again under the same name.
    """
    if checkpoint is None:
        return None
    folder = Path(local_path(checkpoint))
    if not folder.is_dir():
        return [public_name(checkpoint)]
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as data:
            digest.update(data.read(1 << 20))
    return [public_name(str(folder)), digest.hexdigest()]


def check_header(header: Any, expected: Record, path: Path) -> None:
    """Check that a file belongs to this sweep.

    Args:
        header: First line of the file.
        expected: Header of this sweep.
        path: Path to the file, for error messages.

    Raises:
        DataError: The header belongs to another sweep or format version, or is not a header.
    """
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{path} is not an answers file of an evaluation: choose another folder")
    if header.get("version") != VERSION:
        raise DataError(
            f"{path} has format version {header.get('version')!r}, but this program writes version "
            f"{VERSION}: choose another folder, or continue with the program that created the file"
        )
    plain = json.loads(json.dumps(expected))
    differing = [name for name in plain if header.get(name) != plain[name]]
    if differing:
        first = differing[0]
        raise DataError(
            f"{path} belongs to another sweep: {first} is {header.get(first)!r} in the file and "
            f"{plain[first]!r} in this sweep"
            + (f" ({', '.join(differing[1:])} differ too)" if differing[1:] else "")
            + ". Repeat the original command to continue it, or choose another folder"
        )
