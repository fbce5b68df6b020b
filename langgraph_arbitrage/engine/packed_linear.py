"""Linear layers with packed weights: on a CPU, as its multiplications read them fastest.

torch multiplies a linear layer's weights as they were loaded. oneDNN, which comes with torch, can
lay them out once in the blocks that its kernels read. The numbers are the same but for rounding.
A trace cannot hold such weights: it takes them as inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

__all__ = ["PackedLinear", "copied", "is_packed", "lend", "packed_layers"]

TOKENS = 16  # that weights are laid out for: it serves any number, and one as well as any other


class PackedLinear(nn.Module):
    """What a linear layer does, [..., in] → [..., out], with its weights in oneDNN's layout."""

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None = None, *, shared: bool = False
    ) -> None:
        """Pack weights.

        Args:
            weight: Of a linear layer, [out, in].
            bias: Its bias.
            shared: Whether the weights are needed elsewhere too, as those of an output head may be.

        Raises:
            RuntimeError: This CPU cannot, with weights of this dtype.
            AttributeError: This build of torch has no oneDNN.
        """
        super().__init__()
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TOKENS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """The product, and the bias added."""
        if torch._C._get_tracing_state() is not None:
            return _traceable()(x, self.weight, self.bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return found


PRODUCT = """
graph(%x : Tensor, %weight : Tensor, %bias : Tensor?):
  %scalars : Scalar?[] = prim::ListConstruct()
  %activation : str = prim::Constant[value="none"]()
  %algorithm : str = prim::Constant[value=""]()
  %found : Tensor = mkldnn::_linear_pointwise(
    %x, %weight, %bias, %activation, %scalars, %algorithm)
  return (%found)
"""
"""The same call: the tracer itself does not know lists like its fifth argument."""


@cache
def _traceable() -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    unit = torch._C.CompilationUnit()
    _kept.append(unit)
    made: Callable[..., Tensor] = unit.create_function("product", torch._C.parse_ir(PRODUCT))
    return made


_kept: list[object] = []  # a trace calls a function of a unit, and does not keep it


def packed_layers(model: nn.Module) -> list[PackedLinear]:
    """A model's packed layers, in its order."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def is_packed(model: nn.Module) -> bool:
    """Whether some of a model's layers are packed."""
    return bool(packed_layers(model))


def copied(model: nn.Module) -> int:
    """Weights that are there twice, packed and as they were loaded."""
    return sum(layer.weight.numel() for layer in packed_layers(model) if layer.shared)


def lend(layers: Sequence[PackedLinear], weights: Sequence[Tensor]) -> None:
    """Have layers multiply these from now on: the inputs of a trace, or their own again."""
    for layer, weight in zip(layers, weights, strict=True):
        layer._parameters["weight"] = weight  # type: ignore[assignment]
