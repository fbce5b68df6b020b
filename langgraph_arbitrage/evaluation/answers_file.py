"""The file that a sweep writes its answers to: its name, and the line that tells whose it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.models.identifiers import local_path, public_name

__all__ = ["ANSWERS", "FORMAT", "VERSION", "Record", "check_header", "judge_identity"]

ANSWERS = "answers.jsonl"
FORMAT, VERSION = "langgraph_arbitrage answers", 1

Record = dict[str, Any]
"""A line of it: the header, the points, or an answer at a point."""


def judge_identity(judge: str | None) -> list[str] | None:
    """A judge's name, and a digest of its files where they are here: it may be trained again."""
    if judge is None:
        return None
    folder = Path(local_path(judge))
    if not folder.is_dir():
        return [public_name(judge)]
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as data:
            digest.update(data.read(1 << 20))
    return [public_name(str(folder)), digest.hexdigest()]


def check_header(there: Any, wanted: Record, path: Path) -> None:
    """See that a file's first line is this sweep's.

    Raises:
        DataError: It is another sweep's, another version's, or none.
    """
    if not isinstance(there, dict) or there.get("format") != FORMAT:
        raise DataError(f"{path} holds no answers of an evaluation: give another folder")
    if there.get("version") != VERSION:
        raise DataError(
            f"{path} has version {there.get('version')!r} of its format and this program writes "
            f"{VERSION}: give another folder, or go on with the program that began it"
        )
    plain = json.loads(json.dumps(wanted))
    differing = [name for name in plain if there.get(name) != plain[name]]
    if differing:
        first = differing[0]
        raise DataError(
            f"{path} holds another sweep: there {first} is {there.get(first)!r}, here "
            f"{plain[first]!r}"
            + (f" (and {', '.join(differing[1:])} differ too)" if differing[1:] else "")
            + ". Repeat that command to go on with it, or give another folder"
        )
