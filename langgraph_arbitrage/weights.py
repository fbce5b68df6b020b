"""What is known of a checkpoint's weights without loading them: the headers of safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NAMES", "shard_files", "tensor_shapes"]

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
    found: dict[str, list[int]] = {}
    for file in files:
        with file.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
        found |= {n: tensor["shape"] for n, tensor in header.items() if n != "__metadata__"}
    return found
