"""Packs the weights of a model's linear layers, where this CPU is faster with them.

On an EPYC with AVX-512 their products took a fifth to a half of the time: torch's own product of a
single token does not even use a second core there (docs/performance.md). Elsewhere it may be
otherwise, so both are timed when a model is loaded, and the model's logits are compared. Small
models gain nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from langgraph_arbitrage.engine import memory
from langgraph_arbitrage.engine.packed_linear import TOKENS, PackedLinear
from langgraph_arbitrage.engine.probe import TOLERANCE, plain_logits
from langgraph_arbitrage.engine.spec import ModelSpec

__all__ = ["pack"]

logger = logging.getLogger(__name__)

FROM = 20_000_000  # parameters of a model; smaller ones gain little, and share rows among hands
WORTH = 100_000  # weights of a layer; below, starting the product takes as long as the product
TRIED = (1, TOKENS)  # tokens that both ways are timed with
FASTER = 0.8  # of torch's own time, on average over these: what it must stay below
ROUNDS = 50  # in which each is timed: while other threads work, most of them tell nothing
TRIAL = 1.0  # most seconds of them


def pack(model: PreTrainedModel, spec: ModelSpec) -> bool:
    """Pack a model's linear layers, where that is faster and changes nothing but rounding.

    Args:
        model: It is changed in place. Weights that nothing else needs are let go once packed, but
            pages of the checkpoint's file that they lay in may stay until memory is needed.
        spec: Its settings: engines other than "auto" keep the model as it was loaded.

    Returns:
        Whether they are packed.
    """
    layers = _layers(model) if _may_be(model, spec) else []
    head = model.get_output_embeddings()
    # The largest, but an output head, which says little of the others.
    tried = max(layers, key=lambda layer: layer.linear is not head and layer.bytes, default=None)
    if tried is None or not _pays(tried.linear):
        return False
    wanted = plain_logits(model)
    try:
        for layer in layers:
            layer.pack()
        same = _alike(plain_logits(model), wanted, model.dtype)
        why = "" if same else "it computes something else"
    except Exception as error:  # of a model that reads a layer's weights by itself
        why = f"{type(error).__name__}: {str(error).partition('.')[0]}"
    if why:
        logger.info("%s keeps its weights as they were loaded; packed, %s", spec.name, why)
        for layer in layers:
            layer.restore()
    return not why


def _alike(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits are those wanted, within the tolerance of their dtype; NaN is not."""
    apart = (found - wanted).abs().mean() / wanted.abs().mean()
    return bool(apart <= TOLERANCE[dtype])


@dataclass
class _Layer:
    """A linear layer and where it hangs."""

    parent: nn.Module
    name: str
    linear: nn.Linear
    shared: bool
    """Whether it is the output head, with the weights of the embeddings."""

    @property
    def bytes(self) -> int:
        return self.linear.weight.nbytes

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
    known = model.dtype in TOLERANCE and torch.backends.mkldnn.is_available()
    return spec.engine == "auto" and plain and on_cpu and large and known


def _layers(model: PreTrainedModel) -> list[_Layer]:
    """The layers that are worth it, where there is memory for what may be there twice."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found = [
        _Layer(parent, name, child, id(child.weight) in tables)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _is_plain(child) and child.weight.numel() >= WORTH
    ]
    found = [layer for layer in found if layer.shared or users[id(layer.linear.weight)] == 1]
    free = memory.free_bytes(model.device)
    heads = sum(layer.bytes for layer in found if layer.shared)
    if 2 * heads > free:
        found = [layer for layer in found if not layer.shared]
    return found if sum(layer.bytes for layer in found) <= free else []


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether all that a module does is the product, and nobody watches it."""
    return (
        type(module) is nn.Linear
        and "weight" in module._parameters
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _pays(linear: nn.Linear) -> bool:
    """Whether packed weights are clearly faster here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for a core that another program holds
    try:
        packed = PackedLinear(linear.weight, linear.bias)
        ratios = [_ratio(packed, linear, tokens) for tokens in TRIED]
    except (RuntimeError, AttributeError) as error:
        logger.debug("no packed weights here: %s", error)
        return False
    finally:
        torch.set_num_threads(threads)
    return math.prod(ratios) < FASTER ** len(ratios)


def _ratio(packed: PackedLinear, linear: nn.Linear, tokens: int) -> float:
    """The quickest product of packed weights over the quickest of plain ones, run in turn."""
    x = torch.ones(tokens, linear.in_features, dtype=linear.weight.dtype)
    quickest = [math.inf, math.inf]
    end = time.perf_counter() + TRIAL
    for _ in range(ROUNDS):
        for side, work in enumerate((packed, linear)):
            start = time.perf_counter()
            work(x)
            quickest[side] = min(quickest[side], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return quickest[0] / quickest[1]
