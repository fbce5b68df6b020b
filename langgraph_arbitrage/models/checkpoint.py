"""Checks a checkpoint, its device and the free memory before the weights are loaded."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, PreTrainedConfig

from langgraph_arbitrage.errors import CheckpointError, NotEnoughMemoryError, SettingsError
from langgraph_arbitrage.models import memory
from langgraph_arbitrage.models.context import declared_context
from langgraph_arbitrage.models.generation_config import generation_defaults
from langgraph_arbitrage.models.gguf import (
    check_gguf,
    gguf_parameters,
    is_gguf,
    pretrained_source,
)
from langgraph_arbitrage.models.quantization import bits_per_weight
from langgraph_arbitrage.models.safetensors import NAMES, shard_files, tensor_bytes, tensor_shapes
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = [
    "check_device_map",
    "check_memory",
    "choose_device",
    "choose_dtype",
    "context_length",
    "end_ids",
    "load_config",
    "local_weights",
    "read_config",
    "weight_bytes",
]

# Required memory relative to the size of the weights. The rest is for activations, the first slots
# of the KV cache and fragmentation.
HEADROOM = 1.1
AUTOMATIC_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` for which accelerate chooses the devices."""
UNQUANTIZED = ("embed", "lm_head", "wte", "wpe", "score")
"""Matrices whose names contain one of these parts are not quantized."""


def read_config(spec: ModelSpec) -> PreTrainedConfig:
    """Read and return the checkpoint's config. Errors of transformers are not converted."""
    path, gguf = pretrained_source(spec.path)
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **gguf
    )
    return config


def load_config(spec: ModelSpec) -> PreTrainedConfig:
    """Read and return the checkpoint's config. A local checkpoint must have weights.

    Raises:
        CheckpointError: The path is not a checkpoint, or a local folder has no safetensors weights.
    """
    if is_gguf(spec.path):
        check_gguf(spec.path)
        return _read_gguf_config(spec)
    local = Path(spec.path)
    if local.exists() and not (local / "config.json").is_file():
        raise CheckpointError(
            f"{spec.path} is not a checkpoint folder: it contains no config.json. Give a folder "
            "written by `save_pretrained`, or a hub id such as 'Qwen/Qwen2.5-1.5B-Instruct'."
        )
    try:
        config = read_config(spec)
    except (OSError, ValueError, KeyError) as error:
        hint = (
            ""
            if local.exists()
            else " It is neither a local folder nor a hub id, or the hub cannot be reached."
        )
        raise CheckpointError(
            f"{spec.path} cannot be loaded as a model.{hint} Cause: {error}"
        ) from error
    if local.exists() and not any((local / name).is_file() for name in NAMES):
        pickled = sorted(p.name for p in local.glob("*.bin")) + sorted(
            p.name for p in local.glob("*.pt*")
        )
        contents = f"it has {', '.join(pickled[:3])}" if pickled else "it has no weights at all"
        raise CheckpointError(
            f"{spec.path} has no safetensors weights ({contents}). Pickled weights (.bin, .pt) can "
            "run code, so they are never loaded. Convert them with `model.save_pretrained(folder)`."
        )
    return config


def _read_gguf_config(spec: ModelSpec) -> PreTrainedConfig:
    try:
        return read_config(spec)
    except (OSError, ValueError, LookupError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"{spec.path} cannot be read as a GGUF model: {error}") from error


def choose_device(spec: ModelSpec) -> torch.device:
    """Return the device of `spec.device`. "auto" is a GPU if there is one, otherwise the CPU.

    Raises:
        SettingsError: The device is unknown or not available.
    """
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _available_device(spec.device)


def check_device_map(spec: ModelSpec) -> None:
    """Check that all devices in `spec.model_kwargs["device_map"]` are available.

    Raises:
        SettingsError: A device is unknown or not available.
    """
    device_map = spec.model_kwargs.get("device_map")
    names = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for name in names:
        if name is not None and name not in ("disk", *AUTOMATIC_DEVICE_MAPS):
            _available_device(f"cuda:{name}" if isinstance(name, int) else str(name))


def _available_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(
            f"{name!r} is not a device. Use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    index, count = device.index or 0, torch.cuda.device_count()
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and index < count,
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }.get(device.type, False)
    if not available:
        built = torch.backends.cuda.is_built() or device.type != "cuda"
        reason = "" if built else f"; torch {torch.__version__} is built without CUDA"
        raise SettingsError(
            f"device {name!r} is not on this machine (CUDA devices: {count}{reason}). Use "
            "device='cpu', or device='auto' for a GPU if there is one."
        )
    return device


def choose_dtype(spec: ModelSpec, device: torch.device) -> torch.dtype:
    """Return the dtype of `spec.dtype`. "auto" is float32 on a CPU, and bfloat16 elsewhere."""
    name = spec.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return getattr(torch, name)  # type: ignore[no-any-return]


def weight_bytes(spec: ModelSpec, dtype: torch.dtype) -> int | None:
    """Estimate the size of the loaded weights in bytes. Reads only the headers of the files.

    Args:
        spec: The model. If `model_kwargs` contains a quantization config, its bits per weight are
            used.
        dtype: The dtype of unquantized weights.

    Returns:
        The size in bytes. None if the files are not on this machine, or if the quantization config
        does not determine the bits per weight.
    """
    if is_gguf(spec.path):
        return gguf_parameters(spec.path) * dtype.itemsize
    files = local_weights(spec)
    sizes = tensor_bytes(files, dtype.itemsize)
    quantization = spec.model_kwargs.get("quantization_config")
    if quantization is not None:
        bits = bits_per_weight(quantization)
        if bits is None:
            return None
        for name, shape in tensor_shapes(files).items():
            if len(shape) > 1 and not any(part in name for part in UNQUANTIZED):
                sizes[name] = math.prod(shape) * bits / 8
    return int(sum(sizes.values())) or None


def local_weights(spec: ModelSpec) -> list[Path]:
    """Return the checkpoint's safetensors files that are on this machine."""
    if is_gguf(spec.path):
        return []
    for name in NAMES:
        if Path(spec.path).exists():
            path = Path(spec.path) / name
        else:
            cached = try_to_load_from_cache(spec.path, name, revision=spec.revision)
            path = Path(cached) if isinstance(cached, str) else Path()
        if files := shard_files(path):
            return files
    return []


def check_memory(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
    """Check that the weights fit the free memory of the device.

    The check is skipped if the size is unknown or `model_kwargs` has a `device_map`.

    Raises:
        NotEnoughMemoryError: The weights do not fit.
    """
    weights = weight_bytes(spec, dtype)
    if weights is None or "device_map" in spec.model_kwargs:
        return
    required, free = int(weights * HEADROOM), memory.free_bytes(device)
    if required > free:
        quantized = "quantization_config" in spec.model_kwargs
        dtype_text = f"{dtype}, quantized" if quantized else f"{dtype}"
        options = {
            "dtype='bfloat16'": dtype.itemsize > 2,
            "model_kwargs={'quantization_config': …} for 4 or 8 bits per weight": not quantized,
            "a smaller checkpoint": True,
            "device='cpu'": device.type != "cpu",
            "model_kwargs={'device_map': 'auto'} to distribute it over all devices": (
                device.type == "cuda"
            ),
            "closing unused models": True,
        }
        applicable = [option for option, applies in options.items() if applies]
        raise NotEnoughMemoryError(
            f"{spec.name} needs about {required / 2**30:.2f} GiB on {device} in {dtype_text}, and "
            f"{free / 2**30:.2f} GiB are free. Options: {', '.join(applicable[:-1])}, or "
            f"{applicable[-1]}."
        )


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the context length of a model in tokens. None if the config sets no limit."""
    return declared_context(config.get_text_config().to_dict())


def end_ids(spec: ModelSpec, config: PreTrainedConfig, tokenizer_end: int | None) -> frozenset[int]:
    """Return the token ids that end an answer.

    The ids are read from the generation config. If it has none, they are read from the config, and
    then from the tokenizer.

    Args:
        spec: The model.
        config: The checkpoint's config.
        tokenizer_end: The tokenizer's `eos_token_id`.
    """
    ends = generation_defaults(spec, config).end_ids
    if ends is not None:
        return ends
    end = getattr(config.get_text_config(), "eos_token_id", None)
    if end is None:
        end = tokenizer_end
    if end is None:
        return frozenset()
    return frozenset([end] if isinstance(end, int) else end)
