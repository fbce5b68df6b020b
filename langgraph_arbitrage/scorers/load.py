"""Finds out of which format a scorer's checkpoint is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.models.identifiers import local_path
from langgraph_arbitrage.models.safetensors import NAMES, shard_files, tensor_shapes
from langgraph_arbitrage.scorers import surprise
from langgraph_arbitrage.scorers.base import Role, StepScorer
from langgraph_arbitrage.scorers.qwen_prm import QwenScorer
from langgraph_arbitrage.scorers.surprise import SurpriseScorer
from langgraph_arbitrage.scorers.token_choice import MathShepherdScorer, RLHFlowScorer
from langgraph_arbitrage.scorers.token_classifier import SequenceScorer, TokenScorer
from langgraph_arbitrage.scorers.value_head import ValueHeadScorer

__all__ = ["KINDS", "load_scorer"]

KINDS: dict[str, type[StepScorer]] = {
    "surprise": SurpriseScorer,
    "token-classification": TokenScorer,
    "sequence-classification": SequenceScorer,
    "value-head": ValueHeadScorer,
    "qwen-prm": QwenScorer,
    "rlhflow": RLHFlowScorer,
    "math-shepherd": MathShepherdScorer,
}
"""Every known format. All but the last two are recognised; those are plain causal LMs."""

ARCHITECTURES = {
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "sequence-classification",
    "ForProcessRewardModel": "qwen-prm",
    "ForPrmModel": "value-head",
}
"""Kinds by how the config's architecture ends."""

VALUE_HEAD = "v_head.summary.weight"
"""The weight by which a value head is known, whatever the config says."""

PUBLISHED = {
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data": "rlhflow",
    "RLHFlow/Llama3.1-8B-PRM-Mistral-Data": "rlhflow",
    "peiyi9979/math-shepherd-mistral-7b-prm": "math-shepherd",
}
"""Checkpoints on the hub in which nothing but the name tells the kind."""


def load_scorer(model: str, kind: str | None = None, role: Role | None = None) -> StepScorer:
    """The scorer of a checkpoint; its weights load at the first step.

    Args:
        model: A folder, a hub id, or `embedded:ROLE`; with its kind before it where it is not
            recognised, as in `math-shepherd:my-prm`.
        kind: One of `KINDS`; None finds it out.
        role: What is wanted of it, a router or a PRM; None takes either.

    Raises:
        CheckpointError: It is of no known format, or does not play that role.
    """
    named, _, rest = model.partition(":")
    if rest and named in KINDS:
        kind, model = named, rest
    model = local_path(model)
    folder = _folder(model)
    kind = kind or PUBLISHED.get(model) or _recognised(model, folder)
    if kind not in KINDS:
        raise _unknown(model, kind)
    scorer = KINDS[kind].load(model, folder, role or "prm")
    if role is not None and scorer.role != role:
        raise CheckpointError(_other_role(scorer))
    return scorer


def _recognised(model: str, folder: Path) -> str | None:
    """The kind that the checkpoint's files tell."""
    if (folder / surprise.CONFIG).is_file():
        return "surprise"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for architecture in config.get("architectures") or []:
        for ending, kind in ARCHITECTURES.items():
            if architecture.endswith(ending):
                return kind
    return "value-head" if VALUE_HEAD in _weight_names(model, folder) else None


def _weight_names(model: str, folder: Path) -> set[str]:
    """Names of the weights, by what costs least to read."""
    index = folder / NAMES[1]
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if files := shard_files(folder / NAMES[0]):
        return set(tensor_shapes(files))
    if Path(model).exists():
        return set()
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError

    try:
        return set(get_safetensors_metadata(model).weight_map)
    except (HfHubHTTPError, NotASafetensorsRepoError, ConnectionError):
        return set()


def _folder(model: str) -> Path:
    """The folder of a checkpoint's small files."""
    if Path(model).exists():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", surprise.WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"{model} is no folder here, and the hub does not have it or cannot be reached: {error}"
        ) from error


def _unknown(model: str, kind: str | None) -> CheckpointError:
    told = f"{kind!r} is no kind of scorer" if kind else f"the format of {model} is not recognised"
    known = _listed(KINDS)
    return CheckpointError(
        f"{told}; the known kinds are {known}. Where a checkpoint does not tell its kind, as a "
        f"plain causal LM, put it before the name: 'rlhflow:{model}' or 'math-shepherd:{model}'"
    )


def _other_role(scorer: StepScorer) -> str:
    if scorer.role == "prm":
        return (
            f"{scorer.model} is a PRM, no router: it says how good a step is, not whether the "
            f"target would write a better one. Use RSD({scorer.model!r}), or train a router with "
            "`arbitrage train-router`"
        )
    return (
        f"{scorer.model} is a router, no PRM: it says whether the target would write a better "
        f"step, not how good one is. Use LearnedRouter({scorer.model!r})"
    )


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}"
