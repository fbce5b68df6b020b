"""Checks of a checkpoint before anything heavy is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from langgraph_arbitrage.errors import CheckpointError, NotEnoughMemoryError, SettingsError
from langgraph_arbitrage.models import memory
from langgraph_arbitrage.models.quantization import bits_of
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

HEADROOM = 1.1  # activations, the first slots and the allocator's slack, over the weights


def read_config(spec: ModelSpec) -> PreTrainedConfig:
    """The checkpoint's config, with the errors of transformers."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
    )
    return config


def load_config(spec: ModelSpec) -> PreTrainedConfig:
    """The checkpoint's config.

    Raises:
        CheckpointError: The path is no model, or its weights are not safetensors.
    """
    local = Path(spec.path)
    if local.exists() and not (local / "config.json").is_file():
        raise CheckpointError(
            f"{spec.path} is no model: it holds no config.json. Give a folder written by "
            "`save_pretrained`, or a hub id such as 'Qwen/Qwen2.5-1.5B-Instruct'."
        )
    try:
        config = read_config(spec)
    except (OSError, ValueError, KeyError) as error:
        hint = (
            ""
            if local.exists()
            else " It is no folder here, and the hub does not have it or cannot be reached."
        )
        raise CheckpointError(
            f"{spec.path} cannot be loaded as a model.{hint} ({error})"
        ) from error
    if local.exists() and not any((local / name).is_file() for name in NAMES):
        others = sorted(p.name for p in local.glob("*.bin")) + sorted(
            p.name for p in local.glob("*.pt*")
        )
        found = f"it has {', '.join(others[:3])}" if others else "it has no weights at all"
        raise CheckpointError(
            f"{spec.path} has no safetensors weights ({found}). Pickled weights can run code and "
            "are never loaded: convert them with `model.save_pretrained(folder)`."
        )
    return config


def choose_device(spec: ModelSpec) -> torch.device:
    """The device that a spec means on this machine.

    Raises:
        SettingsError: The device is not there.
    """
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _device_here(spec.device)


def check_device_map(spec: ModelSpec) -> None:
    """See that the devices of the spec's device map are there.

    Raises:
        SettingsError: One is not.
    """
    placed = spec.model_kwargs.get("device_map")
    names = placed.values() if isinstance(placed, Mapping) else [placed]
    for name in names:
        if name is not None and name not in ("disk", *SPREAD):
            _device_here(f"cuda:{name}" if isinstance(name, int) else str(name))


SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate makes by itself."""


def _device_here(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(
            f"device {name!r} is no device: use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    index, number = device.index or 0, torch.cuda.device_count()
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and index < number,
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }.get(device.type, False)
    if not there:
        built = torch.backends.cuda.is_built() or device.type != "cuda"
        why = "" if built else f"; torch {torch.__version__} is built without CUDA"
        raise SettingsError(
            f"device {name!r} is not on this machine (CUDA devices: {number}{why}). Use "
            f"device='cpu', or 'auto' for what there is."
        )
    return device


def choose_dtype(spec: ModelSpec, device: torch.device) -> torch.dtype:
    """float32 on a CPU, bfloat16 on an accelerator, unless the spec names one."""
    name = spec.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return getattr(torch, name)  # type: ignore[no-any-return]


def weight_bytes(spec: ModelSpec, dtype: torch.dtype) -> int | None:
    """Bytes of the weights once loaded, from the headers of local safetensors files.

    In `dtype`, or as the spec's quantization config stores them. None where the files are not on
    this machine yet, or nobody knows what quantization makes of them.
    """
    files = local_weights(spec)
    sizes = tensor_bytes(files, dtype.itemsize)
    quantization = spec.model_kwargs.get("quantization_config")
    if quantization is not None:
        bits = bits_of(quantization)
        if bits is None:
            return None
        for name, shape in tensor_shapes(files).items():
            if len(shape) > 1 and not any(word in name for word in WHOLE):
                sizes[name] = math.prod(shape) * bits / 8
    return int(sum(sizes.values())) or None


WHOLE = ("embed", "lm_head", "wte", "wpe", "score")
"""Parts of the names of matrices that are not quantized."""


def local_weights(spec: ModelSpec) -> list[Path]:
    """The checkpoint's safetensors files, as far as they are on this machine."""
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
    """Compare the bytes needed with the bytes free.

    Raises:
        NotEnoughMemoryError: The weights do not fit.
    """
    weights = weight_bytes(spec, dtype)
    if weights is None or "device_map" in spec.model_kwargs:
        return
    needed, free = int(weights * HEADROOM), memory.free_bytes(device)
    if needed > free:
        quantized = "quantization_config" in spec.model_kwargs
        form = f"{dtype}, quantized" if quantized else f"{dtype}"
        ways = {
            "dtype='bfloat16'": dtype.itemsize > 2,
            "model_kwargs={'quantization_config': …} for 4 or 8 bits a weight": not quantized,
            "a smaller checkpoint": True,
            "device='cpu'": device.type != "cpu",
            "model_kwargs={'device_map': 'auto'} to spread it over all devices": (
                device.type == "cuda"
            ),
            "closing models that are no longer used": True,
        }
        helping = [way for way, helps in ways.items() if helps]
        raise NotEnoughMemoryError(
            f"{spec.name} needs about {needed / 2**30:.2f} GiB on {device} in {form}, and "
            f"{free / 2**30:.2f} GiB are free. What helps: {', '.join(helping[:-1])}, or "
            f"{helping[-1]}."
        )


def context_length(config: PreTrainedConfig) -> int | None:
    """Most tokens that the model can read; None where its config names no limit."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        if isinstance(limit := getattr(text, name, None), int):
            return limit
    return None


def end_ids(spec: ModelSpec, config: PreTrainedConfig, tokenizer_end: int | None) -> frozenset[int]:
    """Token ids that end an answer: of the generation config, else config, else tokenizer."""
    try:
        end = GenerationConfig.from_pretrained(
            spec.path, revision=spec.revision or "main"
        ).eos_token_id
    except OSError:
        end = None
    if end is None:
        end = getattr(config.get_text_config(), "eos_token_id", None)
    if end is None:
        end = tokenizer_end
    if end is None:
        return frozenset()
    return frozenset([end] if isinstance(end, int) else end)
