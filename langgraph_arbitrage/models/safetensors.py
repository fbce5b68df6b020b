"""What is known of a checkpoint's weights without loading them: the headers of safetensors."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "shard_files", "tensor_bytes", "tensor_shapes"]

NAMES = ("model.safetensors", "model.safetensors.index.json")
"""Where weights are: in one file, or in those that an index names."""


def shard_files(path: Path) -> list[Path]:
    """The safetensors files that one of `NAMES` stands for, as far as they are here."""
    if not path.is_file():
        return []
    if path.suffix == ".safetensors":
        return [path]
    files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    return [path.parent / f for f in sorted(files) if (path.parent / f).is_file()]


def tensor_shapes(files: Sequence[Path]) -> dict[str, list[int]]:
    """Shape of each tensor by its name."""
    return {name: entry["shape"] for name, entry in _entries(files).items()}


def tensor_bytes(files: Sequence[Path], itemsize: int) -> dict[str, float]:
    """Bytes of each tensor by its name, once its numbers take `itemsize` bytes.

    Those of quantized weights stay as they are stored: whole numbers, and floats of 8 bits.
    """
    found = {}
    for name, entry in _entries(files).items():
        begin, end = entry["data_offsets"]
        is_number = entry["dtype"] in ("F64", "F32", "F16", "BF16")
        found[name] = math.prod(entry["shape"]) * itemsize if is_number else end - begin
    return found


def _entries(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        with file.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
        found |= {n: entry for n, entry in header.items() if n != "__metadata__"}
    return found
