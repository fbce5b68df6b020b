"""Reads the reward heads of published process reward models (PRMs).

The PRM is loaded as the token classifier that transformers has for the architecture. The
classifier's head is then replaced with the head from the checkpoint. Python code in the checkpoint
never runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.models.spec import Kind

__all__ = ["HEADS", "read_head"]

HEADS: dict[Kind, tuple[str, ...]] = {
    "value-head": ("v_head.summary",),  # Linear(D, 1)
    "process-reward": ("score.0", "score.2"),  # Linear(D, D), ReLU, Linear(D, labels)
}
"""Names of the linear layers of each head in the checkpoint. A ReLU follows all but the last."""


class Head(nn.Sequential):
    """Computes logits [..., labels] from hidden states [..., D], in float32."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute logits from hidden states of any float dtype."""
        for layer in self:
            hidden = layer(hidden.float())
        return hidden


def read_head(kind: Kind, files: Sequence[Path], name: str) -> Head:
    """Read a head from safetensors files.

    Args:
        kind: A key of `HEADS`.
        files: The safetensors files of the checkpoint.
        name: Name of the checkpoint, for error messages.

    Raises:
        CheckpointError: The files do not contain the head.
    """
    layers: list[nn.Module] = []
    for layer in HEADS[kind]:
        weight, bias = (_read_tensor(f"{layer}.{part}", files) for part in ("weight", "bias"))
        if weight is None:
            raise CheckpointError(
                f"{name} cannot be loaded as {kind}: the checkpoint has no weights "
                f"{layer}.weight. Use another kind or another checkpoint."
            )
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.weight = nn.Parameter(weight.float(), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.float(), requires_grad=False)
        layers += [nn.ReLU(), linear] if layers else [linear]
    return Head(*layers)


def _read_tensor(name: str, files: Sequence[Path]) -> Tensor | None:
    for file in files:
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor: Tensor = tensors.get_tensor(name)
                return tensor
    return None
