"""Heads that public PRMs have beside a language model, read from the checkpoint's own weights.

The model itself is transformers' token classifier of the checkpoint's architecture, whose head is
replaced: code that comes with such a checkpoint is never run.
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
"""Linear layers of each kind of head by their names in the checkpoint; a ReLU is between two."""


class Head(nn.Sequential):
    """Hidden states [..., D] → logits [..., labels], in float32."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, which may come in another precision."""
        for layer in self:
            hidden = layer(hidden.float())
        return hidden


def read_head(kind: Kind, files: Sequence[Path], name: str) -> Head:
    """The head of a checkpoint.

    Args:
        kind: Which one.
        files: Its safetensors files.
        name: The checkpoint's name, for messages.

    Raises:
        CheckpointError: It has no such head.
    """
    layers: list[nn.Module] = []
    for layer in HEADS[kind]:
        weight, bias = (_tensor(f"{layer}.{part}", files) for part in ("weight", "bias"))
        if weight is None:
            raise CheckpointError(
                f"{name} cannot be loaded as {kind}: it has no weights {layer}.weight"
            )
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.weight = nn.Parameter(weight.float(), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.float(), requires_grad=False)
        layers += [nn.ReLU(), linear] if layers else [linear]
    return Head(*layers)


def _tensor(name: str, files: Sequence[Path]) -> Tensor | None:
    for file in files:
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - it is no mapping
                found: Tensor = tensors.get_tensor(name)
                return found
    return None
