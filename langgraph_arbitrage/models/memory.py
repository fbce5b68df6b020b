"""Memory of a device: what is left, and whether an error means that there was none."""

from __future__ import annotations

import psutil
import torch

__all__ = ["free_bytes", "out_of_memory"]

SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device, what torch keeps for itself included."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return int(psutil.virtual_memory().available)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a CPU, torch tells it as a `RuntimeError`."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)
    )
