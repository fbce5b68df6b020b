"""Reads the context length from a model config, without importing torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["declared_context"]

LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length")
SCALED = ("yarn", "deepseek_yarn", "linear", "dynamic")
"""Types of rope scaling that multiply the configured context length by their factor. For other
types, such as longrope and llama3, the configured length is already the extended length."""


def declared_context(config: Mapping[str, Any]) -> int | None:
    """Return the context length of a model in tokens. None if the config sets no limit.

    Args:
        config: The contents of config.json. For a multimodal model, its text config.

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
    # In YaRN configs, `max_position_embeddings` may be the extended length already, so the original
    # length is used if the config contains it.
    return int((original if "yarn" in kind and original else limit) * factor)
