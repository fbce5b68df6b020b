"""Whether a forward can be a CUDA graph: it must never ask the device for a value.

A graph repeats the kernels of one forward. Where the host reads a result to decide what comes
next, or hands over values of its own in the middle, a repetition would be wrong, and CUDA refuses
the capture. Such a forward is found before that, by looking at each operation: a refused capture
can leave the state of torch's random numbers behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.spec import ModelSpec

__all__ = ["NotCapturableError", "OwnForwards", "Watch", "why_eager", "why_never"]

READS = frozenset(
    "_local_scalar_dense item is_nonzero equal nonzero nonzero_numpy masked_select bincount "
    "_unique _unique2 unique_consecutive unique_dim".split()
)
"""Operations whose result, or its shape, the host waits for."""

COPIES = frozenset(("_to_copy", "copy_", "to"))


class NotCapturableError(RuntimeError):
    """A forward does what no graph can repeat."""


class Watch(TorchDispatchMode):
    """Runs work and raises at the first operation that no graph on `device` can repeat."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        here = any(t.device == self.device for t in given)
        if here and (name in READS or func is torch.ops.aten.repeat_interleave.Tensor):
            raise NotCapturableError(f"its forward waits for a value of the device ({name})")
        if here and name in ("index", "index_put", "index_put_") and any(map(_chooses, given[1:])):
            raise NotCapturableError(f"its forward chooses by a mask of the device ({name})")
        result = func(*args, **(kwargs or {}))
        made = [r for r in tree_leaves(result) if isinstance(r, Tensor)]
        if name == "lift_fresh" and any(r.device == self.device for r in made):
            raise NotCapturableError("its forward makes a tensor of values of the host")
        copies = name in COPIES  # others may return a scalar of the host that nobody asked for
        met = [*given, *made] if copies else [t for t in given if t.dim()]
        others = {t.device for t in met} - {self.device}
        if others and (here or any(r.device == self.device for r in made)):
            raise NotCapturableError(f"its forward also works on {', '.join(map(str, others))}")
        return result


def _chooses(tensor: Tensor) -> bool:
    """Whether indexing by it needs to know how many of its values are true."""
    return tensor.dtype in (torch.bool, torch.uint8)


def why_eager(model: PreTrainedModel, spec: ModelSpec) -> str | None:
    """Why a model's decoding is not even tried to capture; None where it is."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or []) - {"full_attention"}
    if spec.batch_invariant:
        return "batch_invariant feeds one sequence at a time"
    if (why := why_never(model)) is not None:
        return why
    if kinds or getattr(text, "sliding_window", None):
        return f"it has layers with {', '.join(sorted(kinds)) or 'a sliding window'}"
    return None


def why_never(model: PreTrainedModel) -> str | None:
    """Why a model's operations cannot be repeated without its Python; None where they can be."""
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "its layers are on several devices"
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "accelerate moves its weights or inputs (device_map)"
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"a hook is on its {type(module).__name__}"
        owner = _owner(module)
        forward = vars(module).get("forward") or vars(owner)["forward"]
        if forward.__module__ != owner.__module__:
            return f"the forward of {type(module).__name__} was replaced"
    return None


class OwnForwards:
    """Sees whether somebody has replaced a forward of a model's classes, or its own, since.

    A repetition would not call it, and whoever did so wants to be called. So with hooks on the
    model itself; those on its modules are seen only when they are there from the start.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        owners = {_owner(module) for module in model.modules()}
        self._model = model
        self._classes = [(vars(owner), vars(owner)["forward"]) for owner in owners]

    @property
    def intact(self) -> bool:
        """Whether the model and the classes of its modules are as they were."""
        model = self._model
        if "forward" in vars(model) or model._forward_hooks or model._forward_pre_hooks:
            return False
        return all(names["forward"] is forward for names, forward in self._classes)


def _owner(module: torch.nn.Module) -> type:
    """The class that the module has its forward from."""
    return next(c for c in type(module).__mro__ if "forward" in vars(c))
