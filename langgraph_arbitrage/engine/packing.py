"""Packs the weights of a model's linear layers, where this CPU is faster with them.

On an EPYC with AVX-512 their products took a fifth to a half of the time: torch's own product of a
single token does not even use a second core there (docs/performance.md). Elsewhere it may be
otherwise, so both are timed when a model is loaded, and the model's logits are compared. Small
models are left to traces, which save them more.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from langgraph_arbitrage.engine import memory
from langgraph_arbitrage.engine.packed_linear import TOKENS, PackedLinear
from langgraph_arbitrage.engine.probe import close, plain_logits
from langgraph_arbitrage.engine.spec import ModelSpec

__all__ = ["pack"]

logger = logging.getLogger(__name__)

FROM = 20_000_000  # parameters of a model; below, a trace saves more
WORTH = 100_000  # weights of a layer; below, starting the product takes as long as the product
TRIED = (1, TOKENS)  # tokens that both ways are timed with
FASTER = 0.8  # of torch's own time, on average over these: what it must stay below
TRIAL = 0.02  # seconds for each


def pack(model: PreTrainedModel, spec: ModelSpec) -> bool:
    """Pack a model's linear layers, where that is faster and changes nothing but rounding.

    Args:
        model: It is changed in place; weights that nothing else needs are gone once packed.
        spec: Its settings: engines other than "auto" keep the model as it was loaded.

    Returns:
        Whether they are packed.
    """
    layers = _layers(model) if _may_be(model, spec) else []
    if not layers or not _pays(max(layers, key=_size).linear):
        return False
    wanted = plain_logits(model)
    try:
        for layer in layers:
            layer.pack()
        same = close(plain_logits(model), wanted, model)
        why = "" if same else "it computes something else"
    except Exception as error:  # of a model that reads a layer's weights by itself
        why = f"{type(error).__name__}: {str(error).partition('.')[0]}"
    if why:
        logger.info("%s keeps its weights as they were loaded; packed, %s", spec.name, why)
        for layer in layers:
            layer.restore()
    return not why


@dataclass
class _Layer:
    """A linear layer and where it hangs."""

    parent: nn.Module
    name: str
    linear: nn.Linear
    shared: bool

    def pack(self) -> None:
        """Put a packed one in its place, and let go what nothing else needs."""
        linear = self.linear
        packed = PackedLinear(linear.weight, linear.bias, shared=self.shared)
        setattr(self.parent, self.name, packed)
        if not self.shared:
            linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def restore(self) -> None:
        """Put it back as it was."""
        packed = getattr(self.parent, self.name)
        if isinstance(packed, PackedLinear):
            if not self.shared:
                self.linear.weight = nn.Parameter(packed.weight.to_dense(), requires_grad=False)
            setattr(self.parent, self.name, self.linear)


def _may_be(model: PreTrainedModel, spec: ModelSpec) -> bool:
    """Whether a model is one whose layers only this process multiplies, on the CPU."""
    moved = any(hasattr(module, "_hf_hook") for module in model.modules())  # by accelerate
    plain = getattr(model, "hf_quantizer", None) is None and not moved
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    large = model.num_parameters() >= FROM
    there = torch.backends.mkldnn.is_available()
    return spec.engine == "auto" and plain and on_cpu and large and there


def _layers(model: PreTrainedModel) -> list[_Layer]:
    """The layers that are worth it; one whose weights stay as well, only where memory is plenty."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    found = [
        _Layer(parent, name, child, users[id(child.weight)] > 1)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.numel() >= WORTH
    ]
    twice = sum(layer.linear.weight.nbytes for layer in found if layer.shared)
    plenty = 2 * twice <= memory.free_bytes(model.device)
    return [layer for layer in found if plenty or not layer.shared]


def _size(layer: _Layer) -> int:
    """Rows of an output head say little of the other layers."""
    return 0 if layer.shared else layer.linear.weight.numel()


def _pays(linear: nn.Linear) -> bool:
    """Whether packed weights are clearly faster here."""
    try:
        packed = PackedLinear(linear.weight, linear.bias)
    except (RuntimeError, AttributeError) as error:
        logger.debug("no packed weights here: %s", error)
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for a core that another program holds
    ratios = [_ratio(packed, linear, tokens) for tokens in TRIED]
    torch.set_num_threads(threads)
    return math.prod(ratios) < FASTER ** len(ratios)


def _ratio(packed: PackedLinear, linear: nn.Linear, tokens: int) -> float:
    """The quickest product of packed weights over the quickest of plain ones, run in turn."""
    x = torch.rand(tokens, linear.in_features, dtype=linear.weight.dtype)
    quickest = [math.inf, math.inf]
    end = time.perf_counter() + TRIAL
    while time.perf_counter() < end or math.inf in quickest:
        for side, work in enumerate((packed, linear)):
            start = time.perf_counter()
            work(x)
            quickest[side] = min(quickest[side], time.perf_counter() - start)
    return quickest[0] / quickest[1]
