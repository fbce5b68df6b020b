"""Support for rotary embeddings whose frequencies depend on the length of a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

__all__ = ["depends_on_history", "reset_dynamic_rope", "rope_switch"]


def rope_switch(config: PreTrainedConfig) -> int | None:
    """Return the length beyond which a sequence needs other rotary frequencies (longrope).

    Transformers chooses the frequencies of a whole forward by its highest position. So a forward
    must not mix sequences below and above this length. A sequence that exceeds the length is
    computed again from the start.

    Returns:
        The length in tokens, or None if the model has no longrope layers.
    """
    lengths = {
        parameters.get("original_max_position_embeddings")
        for parameters in _rope_parameters(config)
        if parameters.get("rope_type") == "longrope"
    }
    found = [length for length in lengths if isinstance(length, int)]
    return min(found, default=None)


def depends_on_history(config: PreTrainedConfig) -> bool:
    """Return whether the frequencies depend on the longest earlier sequence (dynamic NTK)."""
    return any("dynamic" in str(p.get("rope_type")) for p in _rope_parameters(config))


def reset_dynamic_rope(model: nn.Module) -> None:
    """Reset dynamic NTK frequencies, so that earlier sequences do not affect the next one."""
    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            module.register_buffer("inv_freq", module.original_inv_freq, persistent=False)  # type: ignore[arg-type]
            module.max_seq_len_cached = module.original_max_seq_len


def _rope_parameters(config: PreTrainedConfig) -> Iterator[Mapping[str, Any]]:
    """Yield the rope parameters of a model: one set, or one set per layer type."""
    found = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if "rope_type" in found:
        yield found
    else:
        yield from (value for value in found.values() if isinstance(value, Mapping))
