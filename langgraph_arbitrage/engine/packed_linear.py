"""Linear layers with packed weights: on a CPU, as its multiplications read them fastest.

torch multiplies a linear layer's weights as they were loaded. oneDNN, which comes with torch, can
lay them out once in the blocks that its kernels read. The numbers are the same but for rounding.
A trace cannot hold such weights: it takes them as inputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = ["PackedLinear", "is_packed", "packed_layers", "parameters"]

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
        self.out_features, self.in_features = weight.shape
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """The product, and the bias added."""
        if torch._C._get_tracing_state() is not None:
            return _unit().find_function("product")(x, self.weight, self.bias)  # type: ignore[no-any-return]
        product = torch.ops.mkldnn._linear_pointwise
        return product(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


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
def _unit() -> Any:
    """Holds that function: a trace that calls it does not keep it."""
    unit = torch._C.CompilationUnit()
    unit.create_function("product", torch._C.parse_ir(PRODUCT))
    return unit


def packed_layers(model: nn.Module) -> list[PackedLinear]:
    """A model's packed layers, in its order."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def is_packed(model: nn.Module) -> bool:
    """Whether some of a model's layers are packed."""
    return bool(packed_layers(model))


def parameters(model: PreTrainedModel) -> int:
    """How many a model has; those that are there twice, packed and as they were loaded, once."""
    twice = (layer.weight.numel() for layer in packed_layers(model) if layer.shared)
    return model.num_parameters() - sum(twice)
