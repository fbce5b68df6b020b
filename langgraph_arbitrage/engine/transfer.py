"""Copies small tensors between host and device. The host waits at most once per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["on_device", "on_host", "to_host"]


def on_host(values: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Create a CPU tensor that can be copied to `device` asynchronously.

    For a GPU, the tensor is in pinned memory, which torch does not reuse before the copy is done.
    """
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def on_device(
    values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.long
) -> Tensor:
    """Create a tensor on `device` without waiting for the device.

    The dtype is explicit, because torch's default dtype changes while another thread loads a model.
    """
    tensor = on_host(values, device, dtype)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)


def to_host(ids: Tensor, values: Tensor) -> tuple[list[int], list[float]]:
    """Copy token ids [B] and float32 values [B] to the host in one transfer."""
    if ids.device.type == "cpu":
        return ids.tolist(), values.tolist()
    return split(join(ids, values).cpu())


def join(ids: Tensor, values: Tensor) -> Tensor:
    """Combine ids [B] and the bits of float32 values [B] in one int32 tensor [2, B]."""
    return torch.stack((ids.int(), values.float().view(torch.int32)))


def split(joined: Tensor) -> tuple[list[int], list[float]]:
    """Split a tensor made by `join` into ids and values."""
    return joined[0].tolist(), joined[1].view(torch.float32).tolist()
