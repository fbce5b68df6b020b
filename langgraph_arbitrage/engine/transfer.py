"""Small values to a device and back, without waiting for it more often than once a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["on_device", "on_host", "read"]


def on_host(values: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Values as a tensor of the CPU from which a copy to `device` needs no waiting.

    A GPU copies from pinned memory while the host goes on; torch keeps that memory until it has.
    """
    made = torch.tensor(values, dtype=dtype)
    return made.pin_memory() if device.type == "cuda" else made


def on_device(
    values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.long
) -> Tensor:
    """Values as a tensor of `device`, which may be busy: nobody waits for it.

    The dtype is always named: the default one is another while some model is loaded.
    """
    made = on_host(values, device, dtype)
    return made if device.type == "cpu" else made.to(device, non_blocking=True)


def read(ids: Tensor, values: Tensor) -> tuple[list[int], list[float]]:
    """Token ids [B] and float32 values [B] of a device, in one transfer: one wait.

    The ids go as int32, beside the values' own bits.
    """
    if ids.device.type == "cpu":
        return ids.tolist(), values.tolist()
    return unpacked(packed(ids, values).cpu())


def packed(ids: Tensor, values: Tensor) -> Tensor:
    """Both in one int32 tensor [2, B]."""
    return torch.stack((ids.int(), values.float().view(torch.int32)))


def unpacked(both: Tensor) -> tuple[list[int], list[float]]:
    """What `packed` has put together."""
    return both[0].tolist(), both[1].view(torch.float32).tolist()
