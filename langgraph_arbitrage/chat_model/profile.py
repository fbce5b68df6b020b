"""LangChain's profile of a chat model, without loading it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.language_models import ModelProfile

from langgraph_arbitrage.models.context import declared_context

__all__ = ["PROVIDER", "profile_of"]

PROVIDER = "langgraph_arbitrage"


def profile_of(target: str, max_tokens: int) -> ModelProfile:
    """Return the profile. It has the context length if the target's config is a local file."""
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
        # Both need a grammar, for which the extra `structured` must be installed.
        tool_choice=find_spec("llguidance") is not None,
        structured_output=find_spec("llguidance") is not None,
    )
    if limit := _context(Path(target) / "config.json"):
        profile["max_input_tokens"] = limit
    return profile


def _context(config: Path) -> int | None:
    """Return the context length in a config file."""
    try:
        found: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # on the hub, or not a checkpoint; loading reports that
    return declared_context(found.get("text_config") or found)
