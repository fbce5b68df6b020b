"""Reads the required package and the bits per weight from quantization configs.

A quantization config is a transformers config object or a dict. It is part of
`ModelSpec.model_kwargs` or of the checkpoint's config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from langgraph_arbitrage.errors import CheckpointError, MissingExtraError
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["bits_per_weight", "check_quantization", "checkpoint_bits", "is_quantized"]

PACKAGES: dict[str, tuple[str, str]] = {
    "bitsandbytes": ("bitsandbytes", "pip install 'langgraph-arbitrage[quantized]'"),
    "torchao": ("torchao", "pip install torchao"),
    "auto-round": ("auto_round", "pip install auto-round"),
    "awq": ("gptqmodel", "pip install gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "pip install compressed-tensors"),
    "gptq": ("gptqmodel", "pip install gptqmodel"),
    "hqq": ("hqq", "pip install hqq"),
    "quanto": ("optimum", "pip install optimum-quanto"),
}
"""Maps a quantization method to its required module and the install command. For other methods,
transformers checks the requirements."""

_STORED_BITS = {"mxfp4": 4.25, "fp8": 8.0, "fbgemm_fp8": 8.0, "bitnet": 2.0}
"""Bits per weight of methods that have only one size, which their configs do not contain."""


def check_quantization(spec: ModelSpec, config: PreTrainedConfig) -> None:
    """Check that the package of the model's quantization method is installed.

    Raises:
        MissingExtraError: The package is not installed.
        CheckpointError: Transformers does not know the method.
    """
    quantization = _quantization_config(spec, config)
    method = _method(quantization)
    # Transformers ignores a method it does not know, and would misread the stored weights.
    if quantization is not None and method not in (*AUTO_QUANTIZATION_CONFIG_MAPPING, *PACKAGES):
        raise CheckpointError(
            f"{spec.name} is quantized by {method or 'an unnamed method'}, which transformers "
            f"{transformers.__version__} does not know. Use another checkpoint of the model, or "
            "update transformers."
        )
    module, install = PACKAGES.get(method, ("", ""))
    if module and find_spec(module) is None:
        from_spec = spec.model_kwargs.get("quantization_config") is not None
        verb = "will be quantized" if from_spec else "is quantized"
        raise MissingExtraError(
            f"{spec.name} {verb} by {method} and needs the package {module}, which is not "
            f"installed: {install}"
        )


def is_quantized(spec: ModelSpec, config: PreTrainedConfig) -> bool:
    """Return whether the loaded model is quantized."""
    return _quantization_config(spec, config) is not None


def bits_per_weight(quantization: Any) -> float | None:
    """Return the bits per quantized weight, without scales.

    Args:
        quantization: A quantization config.

    Returns:
        The bits. None if the config does not determine them.
    """
    if _method(quantization) == "torchao":
        kind = _get(quantization, "quant_type")
        kinds = kind.values() if isinstance(kind, Mapping) else [kind]
        names = [
            str(k.get("_type", "")) if isinstance(k, Mapping) else type(k).__name__ for k in kinds
        ]
        return _common_size(names, {"Int4": 4, "Int8": 8, "Float8": 8})
    if _method(quantization) == "bitsandbytes":
        if _get(quantization, "load_in_4bit"):
            return 4
        return 8 if _get(quantization, "load_in_8bit") else None
    return None


def checkpoint_bits(spec: ModelSpec, config: PreTrainedConfig) -> float | None:
    """Return the bits per quantized weight of a model. None if the model is not quantized.

    A quantization config in `spec.model_kwargs` takes precedence over the checkpoint's config. If
    neither the config nor the method determines the size, 8 bits are assumed.
    """
    quantization = _quantization_config(spec, config)
    if quantization is None:
        return None
    known = bits_per_weight(quantization) or _get(quantization, "bits")
    return float(known) if known else _STORED_BITS.get(_method(quantization), 8.0)


def _quantization_config(spec: ModelSpec, config: PreTrainedConfig) -> Any:
    from_spec = spec.model_kwargs.get("quantization_config")
    return from_spec if from_spec is not None else getattr(config, "quantization_config", None)


def _common_size(names: Sequence[str], sizes: Mapping[str, int]) -> float | None:
    """Return the size of the prefixes that the names begin with. None unless it is unique.

    Args:
        names: Names of quantization types, such as `Int4WeightOnlyConfig`.
        sizes: Maps a prefix, such as `Int4`, to its size in bits.
    """
    matches = {size for name in names for prefix, size in sizes.items() if name.startswith(prefix)}
    return matches.pop() if len(matches) == 1 else None


def _method(quantization: Any) -> str:
    """Return the name of the quantization method, or "" if there is none.

    A bitsandbytes config without a method has the field `load_in_4bit` or `load_in_8bit`.
    """
    method = _get(quantization, "quant_method")
    if method is None:
        loads_bits = any(_get(quantization, f"load_in_{n}bit") for n in (4, 8))
        return "bitsandbytes" if loads_bits else ""
    name = str(getattr(method, "value", method))
    return "bitsandbytes" if name.startswith("bitsandbytes") else name


def _get(quantization: Any, name: str) -> Any:
    if isinstance(quantization, Mapping):
        return quantization.get(name)
    return getattr(quantization, name, None)
