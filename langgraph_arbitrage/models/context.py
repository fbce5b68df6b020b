"""Reads the context length from a model config, without importing torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["declared_context"]

LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length")
SCALED = ("yarn", "deepseek_yarn", "linear", "dynamic")
"""Types of rope scaling whose factor multiplies the declared context length. For other types, such
as longrope and llama3, the declared length already includes the extension."""


def declared_context(config: Mapping[str, Any]) -> int | None:
    """Return the maximum number of tokens of a sequence. None if the config sets no limit.

    Args:
        config: The text part of a config.json.

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
    # max_position_embeddings of YaRN configs may already be extended: prefer the original length.
    return int((original if "yarn" in kind and original else limit) * factor)
