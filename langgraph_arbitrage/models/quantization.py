"""What a quantization config asks for: a package, and how many bits a weight.

Looked at before anything is loaded. Such a config comes with the spec (`model_kwargs`), as an
object of transformers or as the dict that one is made of, or with the checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedConfig

from langgraph_arbitrage.errors import MissingExtraError
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["bits_of", "check_quantization", "is_quantized"]

PACKAGES: dict[str, tuple[str, str]] = {
    "bitsandbytes": ("bitsandbytes", "pip install 'langgraph-arbitrage[quantized]'"),
    "torchao": ("torchao", "pip install torchao"),
    "awq": ("gptqmodel", "pip install gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "pip install compressed-tensors"),
    "gptq": ("gptqmodel", "pip install gptqmodel"),
    "hqq": ("hqq", "pip install hqq"),
    "quanto": ("optimum", "pip install optimum-quanto"),
}
"""The module that each method needs, and what installs it; others are left to transformers."""


def check_quantization(spec: ModelSpec, config: PreTrainedConfig) -> None:
    """See that the package is there that quantizes a model, or reads it quantized.

    Raises:
        MissingExtraError: It is not installed.
    """
    wanted = spec.model_kwargs.get("quantization_config")
    method = _method(_config(spec, config))
    module, install = PACKAGES.get(method, ("", ""))
    if module and find_spec(module) is None:
        how = "is to be quantized" if wanted is not None else "is quantized"
        raise MissingExtraError(
            f"{spec.name} {how} by {method}, which needs the package {module}, and that is not "
            f"installed: {install}"
        )


def is_quantized(spec: ModelSpec, config: PreTrainedConfig) -> bool:
    """Whether a model will be quantized once it is loaded."""
    return _config(spec, config) is not None


def _config(spec: ModelSpec, config: PreTrainedConfig) -> Any:
    wanted = spec.model_kwargs.get("quantization_config")
    return wanted if wanted is not None else getattr(config, "quantization_config", None)


def bits_of(quantization: Any) -> float | None:
    """Bits of a quantized weight, where the config tells them; scales come on top."""
    if _method(quantization) == "torchao":
        kind = _of(quantization, "quant_type")
        kinds = kind.values() if isinstance(kind, Mapping) else [kind]
        names = [
            str(k.get("_type", "")) if isinstance(k, Mapping) else type(k).__name__ for k in kinds
        ]
        return _named(names, {"Int4": 4, "Int8": 8, "Float8": 8})
    if _method(quantization) == "bitsandbytes":
        if _of(quantization, "load_in_4bit"):
            return 4
        return 8 if _of(quantization, "load_in_8bit") else None
    return None


def _named(names: Sequence[str], sizes: Mapping[str, int]) -> float | None:
    """The size that every one of the names begins with, if it is one."""
    found = {size for name in names for word, size in sizes.items() if name.startswith(word)}
    return found.pop() if len(found) == 1 else None


def _method(quantization: Any) -> str:
    """The name of the method; configs of bitsandbytes tell it by what they load."""
    method = _of(quantization, "quant_method")
    if method is None:
        is_bits = any(_of(quantization, f"load_in_{n}bit") for n in (4, 8))
        return "bitsandbytes" if is_bits else ""
    name = str(getattr(method, "value", method))
    return "bitsandbytes" if name.startswith("bitsandbytes") else name


def _of(quantization: Any, name: str) -> Any:
    if isinstance(quantization, Mapping):
        return quantization.get(name)
    return getattr(quantization, name, None)
