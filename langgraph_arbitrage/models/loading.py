"""Loads a checkpoint as a transformers model for inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    get_verbosity,
    is_progress_bar_enabled,
    set_verbosity,
    set_verbosity_error,
)

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.models.checkpoint import (
    check_memory,
    choose_device,
    choose_dtype,
    local_weights,
    read_config,
    weight_bytes,
)
from langgraph_arbitrage.models.gguf import pretrained_source
from langgraph_arbitrage.models.heads import HEADS, read_head
from langgraph_arbitrage.models.quantization import is_quantized
from langgraph_arbitrage.models.spec import Kind, ModelSpec
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["LOADING", "load_model"]

LOADING = ForkLock()
"""A thread must hold this lock while it loads or times a model. Loading changes global state of
transformers and torch, such as the default dtype."""

MIN_PROGRESS_BAR_BYTES = 2**30  # smaller models load without a progress bar

AUTO_CLASSES: dict[Kind, type] = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "value-head": AutoModelForTokenClassification,
    "process-reward": AutoModelForTokenClassification,
}

# Some checkpoints were saved from a wrapper class, whose prefix is removed from the weight names.
WRAPPER_PREFIX = {r"^pretrained_model\.": ""}


def load_model(spec: ModelSpec) -> PreTrainedModel:
    """Load a checkpoint for inference, from safetensors only.

    Raises:
        CheckpointError: The checkpoint cannot be loaded as this kind of model.
        NotEnoughMemoryError: The model does not fit its device.
        SettingsError: The device is not available.
    """
    with LOADING:
        return _load(spec)


def _load(spec: ModelSpec) -> PreTrainedModel:
    device = choose_device(spec)
    dtype = choose_dtype(spec, device)
    check_memory(spec, device, dtype)
    path, gguf = pretrained_source(spec.path)
    kwargs = dict(spec.model_kwargs) | gguf
    is_small = (weight_bytes(spec, dtype) or MIN_PROGRESS_BAR_BYTES) < MIN_PROGRESS_BAR_BYTES
    # For the kinds in `HEADS`, transformers warns that the head is missing. The warning is hidden,
    # because `_replace_head` replaces the head below.
    with _quiet(hide_bar=is_small, hide_warnings=spec.kind in HEADS):
        try:
            if is_quantized(spec, read_config(spec)):
                # Some quantized models cannot be moved to a device after loading.
                kwargs.setdefault("device_map", {"": device})
            model, info = AUTO_CLASSES[spec.kind].from_pretrained(  # type: ignore[attr-defined]
                path,
                revision=spec.revision,
                dtype=dtype,
                trust_remote_code=spec.trust_remote_code,
                use_safetensors=None if gguf else True,
                output_loading_info=True,
                key_mapping=WRAPPER_PREFIX if spec.kind in HEADS else None,
                **kwargs,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(
                f"{spec.name} cannot be loaded as {spec.kind}: {error}"
            ) from error
    if spec.kind in HEADS:
        _replace_head(model, spec, info["missing_keys"])
    if "device_map" not in kwargs:
        model = model.to(device)
    if spec.kind == "sequence-classification":
        # Transformers classifies at the last token that is not padding. With the padding id -1, no
        # token is padding, so the model classifies at the last token.
        model.config.get_text_config().pad_token_id = -1
    model.eval().requires_grad_(False)
    return model  # type: ignore[no-any-return]


@contextmanager
def _quiet(*, hide_bar: bool, hide_warnings: bool) -> Iterator[None]:
    """Hide transformers' progress bar or warnings, and restore both settings afterwards."""
    had_bar, verbosity = is_progress_bar_enabled(), get_verbosity()
    if hide_bar:
        disable_progress_bar()
    if hide_warnings:
        set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(verbosity)
        if had_bar:
            enable_progress_bar()


def _replace_head(model: PreTrainedModel, spec: ModelSpec, missing: set[str]) -> None:
    """Replace the randomly initialized head with the checkpoint's head."""
    problem = f"{spec.name} cannot be loaded as {spec.kind}:"
    try:
        model.get_submodule("score")
    except AttributeError:
        raise CheckpointError(
            f"{problem} {type(model).__name__} has no module `score` for its head. Use a "
            "checkpoint of another architecture."
        ) from None
    missing = {name for name in missing if not name.startswith("score.")}
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise CheckpointError(f"{problem} the checkpoint has no weights {names}")
    head = read_head(spec.kind, local_weights(spec), spec.name)
    model.score = head.to(model.device)
