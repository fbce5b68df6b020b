"""Reads tensor shapes and sizes from the headers of safetensors files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "shard_files", "tensor_bytes", "tensor_shapes"]

NAMES = ("model.safetensors", "model.safetensors.index.json")
"""File names of a checkpoint's weights: a single file, or the index of several shards."""


def shard_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint. Missing files are omitted.

    Args:
        path: A safetensors file or the index of several shards.
    """
    if not path.is_file():
        return []
    if path.suffix == ".safetensors":
        return [path]
    files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    return [path.parent / f for f in sorted(files) if (path.parent / f).is_file()]


def tensor_shapes(files: Sequence[Path]) -> dict[str, list[int]]:
    """Return a dict from each tensor's name to its shape."""
    return {name: entry["shape"] for name, entry in _header_entries(files).items()}


def tensor_bytes(files: Sequence[Path], itemsize: int) -> dict[str, float]:
    """Return a dict from each tensor's name to its size in bytes after loading.

    Args:
        files: The safetensors files.
        itemsize: Bytes per number of an unquantized tensor after loading. Tensors of integers and
            8-bit floats are quantized weights, whose stored size is returned.
    """
    sizes = {}
    for name, entry in _header_entries(files).items():
        begin, end = entry["data_offsets"]
        is_unquantized = entry["dtype"] in ("F64", "F32", "F16", "BF16")
        sizes[name] = math.prod(entry["shape"]) * itemsize if is_unquantized else end - begin
    return sizes


def _header_entries(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for file in files:
        with file.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
        entries |= {name: entry for name, entry in header.items() if name != "__metadata__"}
    return entries
