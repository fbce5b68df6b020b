"""A graph for a CPU: it records the operations of some work and repeats them on the same memory.

As a CUDA graph does: values of Python are recorded as constants, inputs are read and outputs
written where they were, and what has been freed and made anew elsewhere is not found again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Tape", "taped"]


class Tape(TorchDispatchMode):
    """Records what runs under it; `run` repeats that."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, made))
        return made

    def run(self) -> None:
        for func, args, kwargs, made in self.steps:
            given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
            outputs = tensors(made)
            views = all(t.untyped_storage().data_ptr() in given for t in outputs)
            if views and not func._schema.is_mutable:
                continue  # another look at the same memory
            again = func(*args, **kwargs)
            for old, new in zip(outputs, tensors(again), strict=True):
                if old is not new and not func._schema.is_mutable:
                    old.copy_(new)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def taped(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture work: its replay."""
    work()  # to warm up, as for a GPU
    with Tape() as tape:
        output = work()

    def replay() -> Tensor:
        tape.run()
        return output

    return replay


def no_capture(device: torch.device) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    """A way to capture that always fails, as CUDA does where it cannot."""

    def failing(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        work()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    return failing
