"""Checks GGUF files. Transformers loads and dequantizes them with the extra `gguf`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from langgraph_arbitrage.errors import CheckpointError, MissingExtraError

__all__ = ["check_gguf", "gguf_parameters", "is_gguf", "pretrained_source"]


def is_gguf(path: str) -> bool:
    """Return whether a model path names a GGUF file (`.gguf`)."""
    return path.endswith(".gguf")


def pretrained_source(path: str) -> tuple[str, dict[str, str]]:
    """Return the path and the `gguf_file` argument of `from_pretrained` for a checkpoint."""
    if not is_gguf(path):
        return path, {}
    return str(Path(path).parent), {"gguf_file": Path(path).name}


def check_gguf(path: str) -> None:
    """Check that a GGUF file can be read.

    Raises:
        CheckpointError: The file does not exist.
        MissingExtraError: The package gguf is not installed.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"{path} is not a file. Download the GGUF file and give its local path, or give the "
            "hub id of a checkpoint with safetensors weights."
        )
    if find_spec("gguf") is None:
        raise MissingExtraError(
            f"{path} needs the package gguf, which is not installed: "
            "pip install 'langgraph-arbitrage[gguf]'"
        )


def gguf_parameters(path: str) -> int:
    """Count the weights in a GGUF file. Loading dequantizes all of them."""
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
