"""Models on a CPU: compute threads, one forward at a time, and packed weights.

By default, torch multiplies the weights of a linear layer in the layout in which they were loaded.
oneDNN, which is part of torch, can reorder ("pack") the weights once into the blocks that its
kernels read. For a few tokens, packed layers are two to three times as fast. When a model is
loaded, both layouts are timed and their logits are compared.
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

__all__ = [
    "ComputeThreads",
    "PackedLinear",
    "is_packed",
    "pack",
    "parameter_count",
    "threads_for",
]

logger = logging.getLogger(__name__)

ALL_THREADS = torch.get_num_threads()
# Minimum parameters × tokens of a forward on several threads. For less work, one thread is faster.
PARALLEL_FROM = 20_000_000

MAX_PASSES = 16  # forwards of other models before a waiting model has priority

PACK_FROM = 20_000_000  # minimum parameters of a packed model; smaller models gain little
# Minimum weights of a packed layer. In a smaller layer, the overhead of the call dominates.
LAYER_FROM = 100_000
PACKED_TOKENS = 16  # token count that the layout is optimized for; it is fast for any count
TIMED_TOKENS = (1, PACKED_TOKENS)
# Maximum time of a packed layer relative to torch's layer: geometric mean over `TIMED_TOKENS`.
MAX_RATIO = 0.8
TRIALS, TRIAL_SECONDS = 50, 1.0
# Maximum mean difference of the logits, relative to their mean absolute value.
MAX_DIFFERENCE = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.1}


# --- threads -------------------------------------------------------------------------------


def _omp_pause() -> Callable[[int], int]:
    """Find `omp_pause_resource_all` (OpenMP 5.0) in the OpenMP library that torch uses."""
    try:
        pause: Callable[[int], int] = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # torch is built without OpenMP
        return lambda kind: 0
    return pause


_pause = _omp_pause()
OMP_SOFT = 1  # a paused thread pool can be used again at any time


class _CoreLock:
    """Lets one model at a time use the cores. The owner keeps the cores until it hands them over.

    A forward of a few sequences takes about as long as a forward of one sequence. So the model with
    the most requests has priority: meanwhile the other models collect requests, which then share
    forwards. If the models took strict turns, all forwards would have few sequences
    (docs/performance.md). A waiting model is passed over at most `MAX_PASSES` times.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Free the cores. A forked process needs this, since it inherits no other threads."""
        self._changed = threading.Condition()
        self._owner: ComputeThreads | None = None
        self._waiting: dict[ComputeThreads, int] = {}  # how often each model was passed over

    def acquire(self, threads: ComputeThreads) -> None:
        """Wait for the cores, unless this model owns them already."""
        with self._changed:
            if self._owner is None:
                self._owner = threads
            if self._owner is not threads:
                self._waiting[threads] = 0
                while self._owner is not threads:
                    self._changed.wait()

    def offer(self, threads: ComputeThreads) -> bool:
        """Offer the cores after a forward. Returns whether another model took them."""
        with self._changed:
            candidate = self._next_owner()
            if candidate is None:
                return False
            overdue = self._waiting[candidate] >= MAX_PASSES
            if not overdue and candidate.requests() <= threads.requests():
                for waiting in self._waiting:
                    self._waiting[waiting] += 1
                return False
            self._hand_over()
            return True

    def release(self, threads: ComputeThreads) -> None:
        """Release the cores, if this model owns them."""
        with self._changed:
            if self._owner is threads:
                self._hand_over()

    def _hand_over(self) -> None:
        """Choose the next owner.

        Waiting models do not choose it themselves: request counts may change until they wake up.
        """
        self._owner = self._next_owner()
        if self._owner is not None:
            del self._waiting[self._owner]
        self._changed.notify_all()

    def _next_owner(self) -> ComputeThreads | None:
        overdue = (t for t, passes in self._waiting.items() if passes >= MAX_PASSES)
        busiest = max(self._waiting, key=lambda t: t.requests(), default=None)
        return next(overdue, busiest)


_cores = _CoreLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cores.reset)


def threads_for(parameters: int, tokens: int = 1) -> int:
    """Return the number of compute threads for a forward of `tokens` tokens."""
    return ALL_THREADS if parameters * tokens >= PARALLEL_FROM else 1


class ComputeThreads:
    """Manages the compute threads of one model. The models of a process run one forward at a time.

    Two concurrent forwards would compete for the cores and the memory bandwidth. If the thread
    pools of all models together had more threads than there are cores, OpenMP would wake all
    threads for every operation. So a worker releases its pool before it waits for a request or for
    the cores.

    Args:
        model: The model.
        threads: Number of threads. None: chosen by the size of the model and the batch.
        requests: Returns the number of open requests of the model.
    """

    def __init__(
        self, model: PreTrainedModel, threads: int | None, requests: Callable[[], int]
    ) -> None:
        self._parameters = parameter_count(model)
        self._threads = threads
        self.requests = requests
        self._has_pool = True  # loading may have started a pool
        self._current = 0  # number of threads that torch is set to

    @contextmanager
    def forward(self, tokens: int) -> Iterator[None]:
        """Use the cores for a forward of `tokens` tokens."""
        _cores.acquire(self)
        threads = self._threads or threads_for(self._parameters, tokens)
        if threads != self._current:
            torch.set_num_threads(threads)
            self._current = threads
        self._has_pool |= threads > 1
        try:
            yield
        finally:
            if _cores.offer(self):
                self._release_pool()

    def release(self) -> None:
        """Release the cores and the thread pool, before waiting for a request."""
        _cores.release(self)
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
        bias: Bias of the layer, [out].
        shared: Whether another module also uses the weights, such as an embedding.

    Raises:
        AttributeError: This build of torch has no oneDNN.
        RuntimeError: The CPU does not support packed weights of this dtype.
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
        """Multiply by the weights and add the bias."""
        product = torch.ops.mkldnn._linear_pointwise
        return product(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


def is_packed(model: nn.Module) -> bool:
    """Whether any layer of a model is packed."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def parameter_count(model: PreTrainedModel) -> int:
    """Count the parameters of a model. Weights that exist packed and unpacked count once."""
    packed = (m for m in model.modules() if isinstance(m, PackedLinear))
    return model.num_parameters() - sum(m.weight.numel() for m in packed if m.shared)


def pack(model: PreTrainedModel, spec: ModelSpec, logits: Callable[[], Tensor]) -> bool:
    """Pack the linear layers of a model if that is faster and changes only rounding.

    Args:
        model: Changed in place. Original weights that are not shared are freed. The operating
            system may keep their pages of the checkpoint file until it needs the memory.
        spec: The model's specification. Only the engine "auto" packs.
        logits: Computes logits by a plain forward. Compared before and after packing.

    Returns:
        Whether the layers are packed.
    """
    layers = _layers(model) if _may_pack(model, spec) else []
    head = model.get_output_embeddings()
    # Time the largest layer. Output heads are not typical, so other layers are preferred.
    timed = max(layers, key=lambda layer: layer.linear is not head and layer.bytes, default=None)
    if timed is None or not _is_faster(timed.linear):
        return False
    before = logits()
    try:
        for layer in layers:
            layer.pack()
        after = logits()
        difference = (after - before).abs().mean() / before.abs().mean()
        problem = "" if difference <= MAX_DIFFERENCE[model.dtype] else "its logits differ"
    except Exception as error:  # the model's own code may read a layer's weights
        problem = f"{type(error).__name__}: {str(error).partition('.')[0]}"
    if problem:
        logger.info("%s keeps its weights as loaded. With packed weights: %s", spec.name, problem)
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
    """Whether the layer is an output head that shares its weights with the embeddings."""

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
    """Whether the model is on the CPU, not quantized, and large enough."""
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())  # by accelerate
    plain = getattr(model, "hf_quantizer", None) is None and not offloaded
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    large = model.num_parameters() >= PACK_FROM
    supported = model.dtype in MAX_DIFFERENCE and torch.backends.mkldnn.is_available()
    return spec.engine == "auto" and plain and on_cpu and large and supported


def _layers(model: PreTrainedModel) -> list[_Layer]:
    """Choose the layers to pack. Empty if both layouts together do not fit in memory."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers = [
        _Layer(parent, name, child, id(child.weight) in embeddings)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _is_plain(child) and child.weight.numel() >= LAYER_FROM
    ]
    layers = [layer for layer in layers if layer.shared or users[id(layer.linear.weight)] == 1]
    free = memory.free_bytes(model.device)
    shared_bytes = sum(layer.bytes for layer in layers if layer.shared)
    if 2 * shared_bytes > free:
        layers = [layer for layer in layers if not layer.shared]
    return layers if sum(layer.bytes for layer in layers) <= free else []


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is an unmodified linear layer without hooks."""
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
    torch.set_num_threads(1)  # with more threads, other programs would distort the times
    try:
        packed = PackedLinear(linear.weight, linear.bias)
        ratios = [_time_ratio(packed, linear, tokens) for tokens in TIMED_TOKENS]
    except (RuntimeError, AttributeError) as error:
        logger.debug("This CPU does not support packed weights: %s", error)
        return False
    finally:
        torch.set_num_threads(threads)
    return math.prod(ratios) < MAX_RATIO ** len(ratios)


def _time_ratio(packed: nn.Module, linear: nn.Module, tokens: int) -> float:
    """Time of the packed layer relative to the plain one: the fastest of several runs each."""
    x = torch.ones(tokens, int(linear.in_features), dtype=linear.weight.dtype)  # type: ignore[arg-type]
    fastest = [math.inf, math.inf]
    end = time.perf_counter() + TRIAL_SECONDS
    for _ in range(TRIALS):
        for i, layer in enumerate((packed, linear)):  # alternate, so that both see the same load
            start = time.perf_counter()
            layer(x)
            fastest[i] = min(fastest[i], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return fastest[0] / fastest[1]
