"""Models on a CPU: compute threads, one forward at a time, and packed weights.

torch multiplies a linear layer's weights as they were loaded. oneDNN, which comes with torch, can
lay them out once in the blocks that its kernels read, which is two to three times as fast for a few
tokens. Both are timed when a model is loaded, and the logits are compared.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from langgraph_arbitrage.models import memory
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["ComputeThreads", "PackedLinear", "is_packed", "pack", "parameters", "threads_for"]

logger = logging.getLogger(__name__)

ALL_THREADS = torch.get_num_threads()
PARALLEL_FROM = (
    20_000_000  # parameters × tokens; below, starting threads takes longer than it saves
)

MAX_PASSES = 16  # forwards of other models before one that waits goes first

PACK_FROM = 20_000_000  # parameters of a model; smaller ones gain little
LAYER_FROM = 100_000  # weights of a layer; below, starting the product takes as long as the product
PACKED_TOKENS = 16  # tokens that weights are laid out for: it serves any number well
TIMED_TOKENS = (1, PACKED_TOKENS)
MAX_RATIO = 0.8  # of torch's own time, averaged over `TIMED_TOKENS`
TRIALS, TRIAL_SECONDS = 50, 1.0
MAX_DIFFERENCE = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.1}


# --- threads -------------------------------------------------------------------------------


def _omp_pause() -> Callable[[int], int]:
    """OpenMP's `omp_pause_resource_all` (5.0), of the library that torch computes with."""
    try:
        pause: Callable[[int], int] = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # not built with it, or not on this system
        return lambda kind: 0
    return pause


_pause = _omp_pause()
OMP_SOFT = 1  # a paused thread pool may be used again at any time


class _Turns:
    """Which model may use the cores. Its owner keeps them from forward to forward.

    A forward of a few sequences takes about as long as one of a single sequence. So the model with
    the most requests goes first, and meanwhile requests gather at the others, which then share
    forwards. With strict alternation every forward of either model has few of them
    (docs/performance.md). A model that waits is passed over at most `MAX_PASSES` times.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Free the cores (in a forked child, whose parent's threads are gone)."""
        self._changed = threading.Condition()
        self._owner: ComputeThreads | None = None
        self._waiting: dict[ComputeThreads, int] = {}  # how often each was passed over

    def take(self, threads: ComputeThreads) -> None:
        """Wait for the cores, unless they are this model's already."""
        with self._changed:
            if self._owner is None:
                self._owner = threads
            if self._owner is not threads:
                self._waiting[threads] = 0
                while self._owner is not threads:
                    self._changed.wait()

    def offer(self, threads: ComputeThreads) -> bool:
        """After a forward: give the cores to a model that goes first; whether there is one."""
        with self._changed:
            first = self._first()
            if first is None:
                return False
            if self._waiting[first] < MAX_PASSES and first.requests() <= threads.requests():
                for other in self._waiting:
                    self._waiting[other] += 1
                return False
            self._hand_over()
            return True

    def leave(self, threads: ComputeThreads) -> None:
        """Give the cores back, if this model has them."""
        with self._changed:
            if self._owner is threads:
                self._hand_over()

    def _hand_over(self) -> None:
        """Choose the next owner here: waiting models cannot, since their requests change."""
        self._owner = self._first()
        if self._owner is not None:
            del self._waiting[self._owner]
        self._changed.notify_all()

    def _first(self) -> ComputeThreads | None:
        overdue = (t for t, passed in self._waiting.items() if passed >= MAX_PASSES)
        most = max(self._waiting, key=lambda t: t.requests(), default=None)
        return next(overdue, most)


_turns = _Turns()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turns.renew)


def threads_for(parameters: int, tokens: int = 1) -> int:
    """Compute threads of a forward of so many tokens."""
    return ALL_THREADS if parameters * tokens >= PARALLEL_FROM else 1


class ComputeThreads:
    """Compute threads of one model; the models of a process run one forward at a time.

    Two forwards at once would halve each other's cores and memory bandwidth, and where the thread
    pools of all models have more threads than there are cores, OpenMP wakes each of them for every
    operation. So a thread that waits, for a request or for its turn, releases its pool.

    Args:
        model: The model.
        threads: Always use this many; None chooses by the work of a forward.
        requests: Tells how many requests the model has.
    """

    def __init__(
        self, model: PreTrainedModel, threads: int | None, requests: Callable[[], int]
    ) -> None:
        self._parameters = parameters(model)
        self._threads = threads
        self.requests = requests
        self._has_pool = True  # loading may have started one
        self._now = 0

    @contextmanager
    def forward(self, tokens: int) -> Iterator[None]:
        """Use the cores for a forward of so many tokens."""
        _turns.take(self)
        threads = self._threads or threads_for(self._parameters, tokens)
        if threads != self._now:
            torch.set_num_threads(threads)
            self._now = threads
        self._has_pool |= threads > 1
        try:
            yield
        finally:
            if _turns.offer(self):
                self._release_pool()

    def release(self) -> None:
        """Give back the cores and the thread pool before waiting; it starts again when needed."""
        _turns.leave(self)
        self._release_pool()

    def _release_pool(self) -> None:
        if self._has_pool:
            self._has_pool = False
            _pause(OMP_SOFT)


# --- packed weights ------------------------------------------------------------------------


class PackedLinear(nn.Module):
    """A linear layer [..., in] → [..., out] with its weights in oneDNN's layout.

    Args:
        weight: Weights of a linear layer, [out, in].
        bias: Its bias, [out].
        shared: Whether the weights are also needed elsewhere, as those of embeddings are.

    Raises:
        RuntimeError: This CPU cannot, with weights of this dtype.
        AttributeError: This build of torch has no oneDNN.
    """

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None = None, *, shared: bool = False
    ) -> None:
        super().__init__()
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_TOKENS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias
        self.out_features, self.in_features = weight.shape
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """The product, with the bias added."""
        product = torch.ops.mkldnn._linear_pointwise
        return product(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


def is_packed(model: nn.Module) -> bool:
    """Whether some of a model's layers are packed."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def parameters(model: PreTrainedModel) -> int:
    """Parameters of a model, counting weights that exist both packed and as loaded once."""
    packed = (m for m in model.modules() if isinstance(m, PackedLinear))
    return model.num_parameters() - sum(m.weight.numel() for m in packed if m.shared)


def pack(model: PreTrainedModel, spec: ModelSpec, logits: Callable[[], Tensor]) -> bool:
    """Pack a model's linear layers if that is faster and changes nothing but rounding.

    Args:
        model: Changed in place. Weights that nothing else needs are freed once packed; pages of
            the checkpoint's file that held them may stay mapped until memory is needed.
        spec: Its settings; engines other than "auto" keep the model as loaded.
        logits: Logits of a plain forward, compared before and after.

    Returns:
        Whether the layers are packed.
    """
    layers = _layers(model) if _may_pack(model, spec) else []
    head = model.get_output_embeddings()
    # The largest layer, apart from an output head, which is unlike the others.
    timed = max(layers, key=lambda layer: layer.linear is not head and layer.bytes, default=None)
    if timed is None or not _is_faster(timed.linear):
        return False
    wanted = logits()
    try:
        for layer in layers:
            layer.pack()
        found = logits()
        apart = (found - wanted).abs().mean() / wanted.abs().mean()
        problem = "" if apart <= MAX_DIFFERENCE[model.dtype] else "its logits differ"
    except Exception as error:  # of a model that reads a layer's weights by itself
        problem = f"{type(error).__name__}: {str(error).partition('.')[0]}"
    if problem:
        logger.info("%s keeps its weights as loaded. When packed: %s", spec.name, problem)
        for layer in layers:
            layer.restore()
    return not problem


@dataclass
class _Layer:
    """A linear layer and its place in the model."""

    parent: nn.Module
    name: str
    linear: nn.Linear
    shared: bool
    """Whether it is the output head, with the weights of the embeddings."""

    @property
    def bytes(self) -> int:
        return self.linear.weight.nbytes

    def pack(self) -> None:
        linear = self.linear
        packed = PackedLinear(linear.weight, linear.bias, shared=self.shared)
        setattr(self.parent, self.name, packed)
        if not self.shared:
            linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def restore(self) -> None:
        packed = getattr(self.parent, self.name)
        if isinstance(packed, PackedLinear):
            if not self.shared:
                self.linear.weight = nn.Parameter(packed.weight.to_dense(), requires_grad=False)
            setattr(self.parent, self.name, self.linear)


def _may_pack(model: PreTrainedModel, spec: ModelSpec) -> bool:
    """Whether the model is on the CPU, unquantized, and large enough."""
    moved = any(hasattr(module, "_hf_hook") for module in model.modules())  # by accelerate
    plain = getattr(model, "hf_quantizer", None) is None and not moved
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    large = model.num_parameters() >= PACK_FROM
    known = model.dtype in MAX_DIFFERENCE and torch.backends.mkldnn.is_available()
    return spec.engine == "auto" and plain and on_cpu and large and known


def _layers(model: PreTrainedModel) -> list[_Layer]:
    """The layers worth packing, as far as there is memory for what may exist twice."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found = [
        _Layer(parent, name, child, id(child.weight) in tables)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _is_plain(child) and child.weight.numel() >= LAYER_FROM
    ]
    found = [layer for layer in found if layer.shared or users[id(layer.linear.weight)] == 1]
    free = memory.free_bytes(model.device)
    heads = sum(layer.bytes for layer in found if layer.shared)
    if 2 * heads > free:
        found = [layer for layer in found if not layer.shared]
    return found if sum(layer.bytes for layer in found) <= free else []


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module does nothing but the product, and nothing hooks into it."""
    return (
        type(module) is nn.Linear
        and "weight" in module._parameters
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _is_faster(linear: nn.Linear) -> bool:
    """Whether packed weights are clearly faster on this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for a core that another program holds
    try:
        packed = PackedLinear(linear.weight, linear.bias)
        ratios = [_time_ratio(packed, linear, tokens) for tokens in TIMED_TOKENS]
    except (RuntimeError, AttributeError) as error:
        logger.debug("weights cannot be packed here: %s", error)
        return False
    finally:
        torch.set_num_threads(threads)
    return math.prod(ratios) < MAX_RATIO ** len(ratios)


def _time_ratio(packed: nn.Module, linear: nn.Module, tokens: int) -> float:
    """The fastest packed product over the fastest plain one, run in turn."""
    x = torch.ones(tokens, int(linear.in_features), dtype=linear.weight.dtype)  # type: ignore[arg-type]
    fastest = [math.inf, math.inf]
    end = time.perf_counter() + TRIAL_SECONDS
    for _ in range(TRIALS):
        for side, layer in enumerate((packed, linear)):
            start = time.perf_counter()
            layer(x)
            fastest[side] = min(fastest[side], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return fastest[0] / fastest[1]
