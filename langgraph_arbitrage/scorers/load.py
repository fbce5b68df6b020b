"""Finds out of which format a scorer's checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.names import local_path
from langgraph_arbitrage.scorers import surprise, token_classifier
from langgraph_arbitrage.scorers.base import StepScorer

__all__ = ["load_scorer"]

KINDS: dict[str, type[surprise.SurpriseScorer] | type[token_classifier.TokenScorer]] = {
    "surprise": surprise.SurpriseScorer,
    "token-classification": token_classifier.TokenScorer,
}


def load_scorer(model: str, kind: str | None = None) -> StepScorer:
    """The scorer of a checkpoint; its weights load at the first step.

    Args:
        model: A folder, a hub id, or `embedded:ROLE`.
        kind: `surprise` or `token-classification`; None finds it out.

    Raises:
        CheckpointError: It is of no known format.
    """
    model = local_path(model)
    folder = _folder(model)
    if kind is None and (folder / surprise.CONFIG).is_file():
        kind = "surprise"
    if kind is None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if any("ForTokenClassification" in a for a in config.get("architectures") or []):
            kind = "token-classification"
    if kind not in KINDS:
        raise CheckpointError(
            f"{model} is a scorer of no known format ({kind or 'not recognised'}); known: "
            f"{', '.join(KINDS)}"
        )
    return KINDS[kind].load(model, folder)


def _folder(model: str) -> Path:
    """The folder of a checkpoint's small files."""
    if Path(model).exists():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "surprise.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"{model} is no folder here, and the hub does not have it or cannot be reached: {error}"
        ) from error
