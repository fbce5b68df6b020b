"""What a model can, told without loading it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.language_models import ModelProfile

__all__ = ["PROVIDER", "profile_of"]

PROVIDER = "langgraph_arbitrage"


def profile_of(target: str, max_tokens: int) -> ModelProfile:
    """LangChain's profile of a chat model; its limits where the target's config is here."""
    profile = ModelProfile(
        max_output_tokens=max_tokens,
        text_inputs=True,
        image_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        text_outputs=True,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        tool_calling=True,
        tool_call_streaming=True,
        # Both are decoded under a grammar, by an extra.
        tool_choice=find_spec("llguidance") is not None,
        structured_output=find_spec("llguidance") is not None,
    )
    if limit := _context(Path(target) / "config.json"):
        profile["max_input_tokens"] = limit
    return profile


def _context(config: Path) -> int | None:
    """The longest context, by a config file."""
    try:
        found: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # on the hub, or no checkpoint: loading says so
    found = found.get("text_config") or found
    limit = found.get("max_position_embeddings") or found.get("n_positions")
    return limit if isinstance(limit, int) else None
