"""Loads a model and chooses how to run it."""

from __future__ import annotations

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from langgraph_arbitrage.engine.checkpoint import (
    check_memory,
    choose_device,
    choose_dtype,
    weight_bytes,
)
from langgraph_arbitrage.engine.spec import Kind, ModelSpec
from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.forks import ForkLock

__all__ = ["load_model"]

# While it loads, transformers changes what all threads see: default dtype, device, progress bars.
_loading = ForkLock()

LONG_LOAD = 2**30  # bytes of weights from which loading shows a progress bar

AUTO_CLASSES: dict[Kind, type] = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}


def load_model(spec: ModelSpec) -> PreTrainedModel:
    """Load a checkpoint for inference, from safetensors only.

    Raises:
        CheckpointError: The checkpoint cannot be loaded as this kind of model.
        NotEnoughMemoryError: It does not fit the device.
        SettingsError: The device is not there.
    """
    with _loading:
        return _loaded(spec)


def _loaded(spec: ModelSpec) -> PreTrainedModel:
    device = choose_device(spec)
    dtype = choose_dtype(spec, device)
    check_memory(spec, device, dtype)
    quiet = (weight_bytes(spec, dtype) or LONG_LOAD) < LONG_LOAD and is_progress_bar_enabled()
    if quiet:
        disable_progress_bar()
    try:
        model: PreTrainedModel = AUTO_CLASSES[spec.kind].from_pretrained(  # type: ignore[attr-defined]
            spec.path,
            revision=spec.revision,
            dtype=dtype,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            **spec.model_kwargs,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"{spec.name} cannot be loaded as {spec.kind}: {error}") from error
    finally:
        if quiet:
            enable_progress_bar()
    if not spec.model_kwargs.keys() & {"device_map", "quantization_config"}:
        model = model.to(device)  # type: ignore[arg-type]
    if spec.kind == "sequence-classification":
        # Rows are aligned at their last token. The model looks for the last one that is no
        # padding: with an id that no token has, that is always the last.
        model.config.get_text_config().pad_token_id = -1
    model.eval()
    return model
