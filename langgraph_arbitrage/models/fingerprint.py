"""A short digest of a checkpoint's files, to tell models of one name apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

from langgraph_arbitrage.models.checkpoint import local_weights
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.remote.address import address_of

__all__ = ["fingerprint"]

SMALL = ("config.json", "tokenizer.json")
SAMPLES = 8
CHUNK = 1 << 16


def fingerprint(spec: ModelSpec) -> str:
    """Digest of the small files and of a sample of the weights.

    Sizes and a few chunks of each weights file are read, not all of it: training moves every
    weight, so a sample tells, in milliseconds, whatever the model's size.

    Returns:
        16 hexadecimal digits; empty where the weights are not on this machine.
    """
    weights = [] if address_of(spec.path) else local_weights(spec)
    if not weights:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for name in SMALL:
        file = weights[0].parent / name
        if file.is_file():
            digest.update(file.read_bytes())
    for file in weights:
        _sample(file, digest)
    return digest.hexdigest()


def _sample(file: Path, digest: hashlib.blake2b) -> None:
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as f:
        for i in range(SAMPLES):
            f.seek(max(0, size - CHUNK) * i // (SAMPLES - 1))
            digest.update(f.read(CHUNK))
