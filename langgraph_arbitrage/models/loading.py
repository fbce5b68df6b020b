"""Loads a model and chooses how to run it."""

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
from langgraph_arbitrage.models.heads import HEADS, read_head
from langgraph_arbitrage.models.quantization import is_quantized
from langgraph_arbitrage.models.spec import Kind, ModelSpec
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["LOADING", "load_model"]

LOADING = ForkLock()
"""Held while a model loads: transformers then changes what all threads see, such as the default
dtype. And while one is traced, which must see none of that."""

LONG_LOAD = 2**30  # bytes of weights from which loading shows a progress bar

AUTO_CLASSES: dict[Kind, type] = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "value-head": AutoModelForTokenClassification,
    "process-reward": AutoModelForTokenClassification,
}

# Some checkpoints with a head name their weights by the wrapper that they were trained in.
WRAPPER = {r"^pretrained_model\.": ""}


def load_model(spec: ModelSpec) -> PreTrainedModel:
    """Load a checkpoint for inference, from safetensors only.

    Raises:
        CheckpointError: The checkpoint cannot be loaded as this kind of model.
        NotEnoughMemoryError: It does not fit the device.
        SettingsError: The device is not there.
    """
    with LOADING:
        return _loaded(spec)


def _loaded(spec: ModelSpec) -> PreTrainedModel:
    device = choose_device(spec)
    dtype = choose_dtype(spec, device)
    check_memory(spec, device, dtype)
    placed = dict(spec.model_kwargs)
    short = (weight_bytes(spec, dtype) or LONG_LOAD) < LONG_LOAD
    with _quiet(bar=short, warnings=spec.kind in HEADS):  # of a head that is replaced below
        try:
            if is_quantized(spec, read_config(spec)):
                placed.setdefault("device_map", {"": device})  # not all of it can be moved later
            model, found = AUTO_CLASSES[spec.kind].from_pretrained(  # type: ignore[attr-defined]
                spec.path,
                revision=spec.revision,
                dtype=dtype,
                trust_remote_code=spec.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                key_mapping=WRAPPER if spec.kind in HEADS else None,
                **placed,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(
                f"{spec.name} cannot be loaded as {spec.kind}: {error}"
            ) from error
    if spec.kind in HEADS:
        _replace_head(model, spec, found["missing_keys"])
    if "device_map" not in placed:
        model = model.to(device)
    if spec.kind == "sequence-classification":
        # Rows are aligned at their last token. The model looks for the last one that is no
        # padding: with an id that no token has, that is always the last.
        model.config.get_text_config().pad_token_id = -1
    model.eval().requires_grad_(False)
    return model  # type: ignore[no-any-return]


@contextmanager
def _quiet(*, bar: bool, warnings: bool) -> Iterator[None]:
    """Keep transformers from showing a progress bar, or from warning."""
    had_bar, verbosity = is_progress_bar_enabled(), get_verbosity()
    if bar:
        disable_progress_bar()
    if warnings:
        set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(verbosity)
        if had_bar:
            enable_progress_bar()


def _replace_head(model: PreTrainedModel, spec: ModelSpec, missing: set[str]) -> None:
    """Put the checkpoint's own head where transformers made one up."""
    failed = f"{spec.name} cannot be loaded as {spec.kind}:"
    try:
        model.get_submodule("score")
    except AttributeError:
        raise CheckpointError(
            f"{failed} the head of {type(model).__name__} cannot be replaced"
        ) from None
    missing = {name for name in missing if not name.startswith("score.")}
    if missing:
        raise CheckpointError(f"{failed} it has no weights {', '.join(sorted(missing)[:3])}")
    head = read_head(spec.kind, local_weights(spec), spec.name)
    model.score = head.to(model.device)
