"""Linear layers with packed weights: on a CPU, as its multiplications read them fastest.

torch multiplies a linear layer's weights as they were loaded. oneDNN, which comes with torch, can
lay them out once in the blocks that its kernels read. The numbers are the same but for rounding.
A trace cannot hold such weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PackedLinear", "copied", "is_packed"]

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
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return found


def is_packed(model: nn.Module) -> bool:
    """Whether some of a model's layers are packed."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def copied(model: nn.Module) -> int:
    """Weights that are there twice, packed and as they were loaded."""
    packed = (module for module in model.modules() if isinstance(module, PackedLinear))
    return sum(module.weight.numel() for module in packed if module.shared)
