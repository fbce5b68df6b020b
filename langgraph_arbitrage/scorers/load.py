"""Load a scorer checkpoint and detect its format."""

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
"""Maps each supported kind to its class. The last two are plain causal LMs, so their kind cannot be
detected from the files."""

ARCHITECTURES = {
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "sequence-classification",
    "ForProcessRewardModel": "qwen-prm",
    "ForPrmModel": "value-head",
}
"""Maps the suffix of the architecture in `config.json` to the kind."""

VALUE_HEAD = "v_head.summary.weight"
"""Name of the weight that identifies a value head if the architecture does not."""

PUBLISHED = {
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data": "rlhflow",
    "RLHFlow/Llama3.1-8B-PRM-Mistral-Data": "rlhflow",
    "peiyi9979/math-shepherd-mistral-7b-prm": "math-shepherd",
}
"""Maps Hub checkpoints whose files do not identify the kind to their kind."""


def load_scorer(model: str, kind: str | None = None, role: Role | None = None) -> StepScorer:
    """Load the scorer of a checkpoint. The model weights load at the first step.

    Args:
        model: A local folder, a Hub id or `embedded:ROLE`. Prefix the kind if it cannot be
            detected, as in `math-shepherd:my-prm`.
        kind: One of `KINDS`. Default: detect it from the checkpoint.
        role: Required role. Default: either role is accepted.

    Raises:
        CheckpointError: The format is unknown, or the scorer has another role.
    """
    prefix, _, name = model.partition(":")
    if name and prefix in KINDS:
        kind, model = prefix, name
    model = local_path(model)
    folder = _folder(model)
    kind = kind or PUBLISHED.get(model) or _detect_kind(model, folder)
    if kind not in KINDS:
        raise _unknown_kind(model, kind)
    scorer = KINDS[kind].load(model, folder, role or "prm")
    if role is not None and scorer.role != role:
        raise CheckpointError(_role_mismatch(scorer))
    return scorer


def _detect_kind(model: str, folder: Path) -> str | None:
    """Detect the kind from the checkpoint's files; None if they do not identify it."""
    if (folder / surprise.CONFIG).is_file():
        return "surprise"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for architecture in config.get("architectures") or []:
        for suffix, kind in ARCHITECTURES.items():
            if architecture.endswith(suffix):
                return kind
    return "value-head" if VALUE_HEAD in _weight_names(model, folder) else None


def _weight_names(model: str, folder: Path) -> set[str]:
    """Return the names of the checkpoint's weights without loading them."""
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
    """Return the folder of the checkpoint's configuration files; download them if necessary."""
    if Path(model).exists():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", surprise.WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"{model} is not a local folder and could not be downloaded from the Hub: {error}. "
            "Check the name and the network connection"
        ) from error


def _unknown_kind(model: str, kind: str | None) -> CheckpointError:
    if kind:
        problem = f"{kind!r} is not a valid scorer kind"
    else:
        problem = f"the scorer kind of {model} cannot be detected"
    return CheckpointError(
        f"{problem}; the supported kinds are {_enumerated(KINDS)}. For a plain causal LM, prefix "
        f"the kind, as in 'rlhflow:{model}' or 'math-shepherd:{model}'"
    )


def _role_mismatch(scorer: StepScorer) -> str:
    if scorer.role == "prm":
        return (
            f"{scorer.model} is a PRM, not a router: it scores the correctness of a step, not "
            f"whether the target would write a better one. Use RSD({scorer.model!r}), or train a "
            "router with `arbitrage train-router`"
        )
    return (
        f"{scorer.model} is a router, not a PRM: it scores whether the target would write a better "
        f"step, not the correctness of a step. Use LearnedRouter({scorer.model!r})"
    )


def _enumerated(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
