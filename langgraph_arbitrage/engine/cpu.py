"""Models on a CPU: packed weights, and compute threads that several models share.

oneDNN, which is part of torch, can reorder ("pack") the weights of a linear layer into the blocks
that its kernels read. For up to about 16 tokens, packed layers are two to three times as fast. When
a model is loaded, its largest layer is timed with and without packing. If packing is faster, all
large layers are packed, and the logits before and after packing are compared.
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
MIN_PARALLEL_WORK = 20_000_000

MAX_PASSES = 16  # after so many forwards of other models, a waiting model has priority

MIN_PACKED_PARAMETERS = 20_000_000  # of a model; smaller models gain little
# Minimum weights of a packed layer. In a smaller layer, the overhead of the call dominates.
MIN_PACKED_WEIGHTS = 100_000
PACKED_TOKENS = 16  # number of tokens that oneDNN optimizes the layout for
TIMED_TOKENS = (1, PACKED_TOKENS)
# Maximum time of a packed layer relative to torch's layer: geometric mean over `TIMED_TOKENS`.
MAX_RATIO = 0.8
TRIALS, TRIAL_SECONDS = 50, 1.0
# Maximum mean difference of the logits, relative to their mean absolute value.
MAX_DIFFERENCE = {torch.float32: 5e-3, torch.bfloat16: 0.15, torch.float16: 0.1}


# --- threads -------------------------------------------------------------------------------


def _omp_pause() -> Callable[[int], int]:
    """Return `omp_pause_resource_all` (OpenMP 5.0) from the OpenMP library that torch uses."""
    try:
        pause: Callable[[int], int] = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # torch is built without OpenMP
        return lambda kind: 0
    return pause


_pause = _omp_pause()
OMP_SOFT = 1  # releases the threads of the pool; the next parallel region starts new threads


class _CoreLock:
    """A lock for the cores of the CPU. Its owner is the model that may run forwards.

    The model with the most requests has priority. Meanwhile the requests of other models accumulate
    and later share forwards: a forward of a few sequences takes about as long as a forward of one.
    If the models took turns, each forward would have few sequences (docs/performance.md). A waiting
    model is passed over at most `MAX_PASSES` times.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Unlock the cores. A forked process needs this, because it has no owner's thread."""
        self._changed = threading.Condition()
        self._owner: ComputeThreads | None = None
        self._waiting: dict[ComputeThreads, int] = {}  # how often a waiting model was passed over

    def acquire(self, threads: ComputeThreads) -> None:
        """Wait until this model owns the cores."""
        with self._changed:
            if self._owner is None:
                self._owner = threads
            if self._owner is not threads:
                self._waiting[threads] = 0
                while self._owner is not threads:
                    self._changed.wait()

    def offer(self, threads: ComputeThreads) -> bool:
        """Pass the cores to another model if it has priority. Returns whether they were passed.

        The owner calls this after each forward.
        """
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
        """Release the cores if this model owns them."""
        with self._changed:
            if self._owner is threads:
                self._hand_over()

    def _hand_over(self) -> None:
        """Set the next owner and wake the waiting models.

        The current owner makes the choice, because request counts may change before the waiting
        models wake up.
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
    """Return the number of compute threads for a forward of `tokens` tokens.

    Args:
        parameters: Number of parameters of the model.
        tokens: Number of tokens of the forward.
    """
    return ALL_THREADS if parameters * tokens >= MIN_PARALLEL_WORK else 1


class ComputeThreads:
    """The compute threads of one model. The models of a process run one forward at a time.

    Concurrent forwards would compete for the cores and the memory bandwidth. OpenMP creates a
    thread pool for each worker. If all pools together had more threads than the CPU has cores,
    every operation would be slower. So a worker releases its pool before it waits for a request or
    for the cores.

    Args:
        model: The model.
        threads: Number of threads. None: chosen for each forward by `threads_for`.
        requests: Returns the number of running and queued requests of the model.
    """

    def __init__(
        self, model: PreTrainedModel, threads: int | None, requests: Callable[[], int]
    ) -> None:
        self._parameters = parameter_count(model)
        self._threads = threads
        self.requests = requests
        self._has_pool = True  # loading may have started a pool
        self._current = 0  # last argument of `torch.set_num_threads`

    @contextmanager
    def forward(self, tokens: int) -> Iterator[None]:
        """Wait for the cores, and set the number of threads for a forward of `tokens` tokens."""
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
        """Release the cores and the thread pool. Called before waiting for a request."""
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
        shared: Whether another module, such as an embedding, uses the original weights.

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
    """Return whether any layer of a model is packed."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def parameter_count(model: PreTrainedModel) -> int:
    """Count the parameters of a model. Weights with a packed and an original copy count once."""
    packed = (m for m in model.modules() if isinstance(m, PackedLinear))
    return model.num_parameters() - sum(m.weight.numel() for m in packed if m.shared)


def pack(model: PreTrainedModel, spec: ModelSpec, logits: Callable[[], Tensor]) -> bool:
    """Pack the linear layers of a model if packing is faster and changes only rounding.

    Args:
        model: The model, which is changed in place. Original weights that are not shared are freed.
            The operating system may cache their pages of the checkpoint file until other programs
            need the memory.
        spec: The model's specification. Models are packed only with `engine="auto"`.
        logits: Computes logits by a plain forward. It is called before and after packing.

    Returns:
        Whether the layers are packed.
    """
    layers = _layers(model) if _may_pack(model, spec) else []
    head = model.get_output_embeddings()
    # Time the largest layer other than the output head, whose shape is not typical. If the output
    # head is the only layer, time the head.
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
    except Exception as error:  # some models read `weight` in a way that packed weights reject
        problem = f"{type(error).__name__}: {str(error).partition('.')[0]}"
    if problem:
        logger.info("The weights of %s are not packed. Result of packing: %s", spec.name, problem)
        for layer in layers:
            layer.restore()
    return not problem


@dataclass
class _Layer:
    """A linear layer, and its parent module and name."""

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
    """Return whether a model can be packed: on the CPU, large enough, and not quantized."""
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())  # by accelerate
    plain = getattr(model, "hf_quantizer", None) is None and not offloaded
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    large = model.num_parameters() >= MIN_PACKED_PARAMETERS
    supported = model.dtype in MAX_DIFFERENCE and torch.backends.mkldnn.is_available()
    return spec.engine == "auto" and plain and on_cpu and large and supported


def _layers(model: PreTrainedModel) -> list[_Layer]:
    """Return the layers to pack. Empty if the packed copies do not fit in memory."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers = [
        _Layer(parent, name, child, id(child.weight) in embeddings)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _is_plain(child) and child.weight.numel() >= MIN_PACKED_WEIGHTS
    ]
    layers = [layer for layer in layers if layer.shared or users[id(layer.linear.weight)] == 1]
    free = memory.free_bytes(model.device)
    shared_bytes = sum(layer.bytes for layer in layers if layer.shared)
    if 2 * shared_bytes > free:
        layers = [layer for layer in layers if not layer.shared]
    return layers if sum(layer.bytes for layer in layers) <= free else []


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a module is an unmodified linear layer without hooks."""
    return (
        type(module) is nn.Linear
        and "weight" in module._parameters
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _is_faster(linear: nn.Linear) -> bool:
    """Return whether the packed layer takes at most `MAX_RATIO` of the time on this CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with several threads, other programs distort the times more
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
    """Return the time of the packed layer divided by the time of the plain layer.

    Each time is the minimum of up to `TRIALS` runs.
    """
    x = torch.ones(tokens, int(linear.in_features), dtype=linear.weight.dtype)  # type: ignore[arg-type]
    fastest = [math.inf, math.inf]
    end = time.perf_counter() + TRIAL_SECONDS
    for _ in range(TRIALS):
        for i, layer in enumerate((packed, linear)):  # alternate, for equal load
            start = time.perf_counter()
            layer(x)
            fastest[i] = min(fastest[i], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return fastest[0] / fastest[1]
