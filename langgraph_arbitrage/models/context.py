"""The context length that a config declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["declared_context"]

LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length")
SCALED = ("yarn", "deepseek_yarn", "linear", "dynamic")
"""Rope scalings that extend the context by their factor. Others (longrope, llama3) declare the
extended length."""


def declared_context(config: Mapping[str, Any]) -> int | None:
    """Maximum number of tokens of a sequence; None without a limit.

    Args:
        config: A text config as in config.json.

    Example:
        >>> yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
        >>> declared_context({"max_position_embeddings": 32768, "rope_scaling": yarn})
        131072
    """
    limit: int | None = next((config[n] for n in LENGTHS if isinstance(config.get(n), int)), None)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if limit is None or not isinstance(rope, Mapping):
        return limit
    kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
    if kind not in SCALED or not isinstance(factor, int | float) or factor < 1:
        return limit
    original = rope.get("original_max_position_embeddings")
    # YaRN configs name the original length, or the extended one, as max_position_embeddings.
    return int((original if "yarn" in kind and original else limit) * factor)
