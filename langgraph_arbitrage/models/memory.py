"""Reads the free memory of a device, and recognizes out-of-memory errors."""

from __future__ import annotations

import psutil
import torch

__all__ = ["free_bytes", "out_of_memory"]

OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory")


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes.

    On a GPU, this includes the memory that torch has reserved but does not use.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports that memory ran out. On a CPU, it is a `RuntimeError`."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(text in str(error).lower() for text in OUT_OF_MEMORY_TEXTS)
    )
