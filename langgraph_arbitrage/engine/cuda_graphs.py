"""CUDA graphs for decoding: a forward of one token per sequence, captured once per shape.

At batch size 1, a GPU spends most of an eager forward waiting for Python to launch the next kernel.
A graph launches all kernels at once. Its tensors have fixed shapes and addresses. So each batch is
padded to one of a few shapes, and a graph is captured again after the KV cache was reallocated. The
first replay of each graph is compared with an eager forward. After any failure, the model decodes
eagerly, and one warning is logged.

CUDA graphs are off by default, because they have not run on a GPU yet. `cuda_graphs=True` enables
them. `CAPTURES` maps a device type to its capture function. The tests register one for the CPU.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.attention import Layout, grouped_attention
from langgraph_arbitrage.engine.kv_cache import KVCache
from langgraph_arbitrage.engine.sequence import Batch
from langgraph_arbitrage.engine.transfer import on_host
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["CAPTURES", "Capture", "CudaCapture", "CudaGraphs", "PaddedLayout", "own_stream"]

logger = logging.getLogger(__name__)

EAGER_RUNS_BEFORE_CAPTURE = 8  # per shape; a capture takes about as long as 8 forwards
MAX_GRAPHS = 48  # per model; the least recently used graph is deleted
MIN_VIEW = 64  # minimum number of cache positions that a graph reads per sequence
WARM_UPS = 2  # runs before a capture, in which libraries initialize themselves
# Maximum RMS difference between the logits of a replay and of an eager forward, relative to the
# standard deviation of the logits. It is small, because both run the same kernels.
TOLERANCE = 0.02

Replay = Callable[[], Tensor]
"""Runs the captured kernels and returns their output, which the next replay overwrites."""
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Captures a function. Its input tensors must keep their addresses."""
Run = Callable[[Layout, Tensor, Tensor, Tensor], Tensor]
"""Runs a forward: (layout, ids [1, T], positions [1, T], logit indices [W]) → logits [W, V]."""

_capture_lock = ForkLock()  # a process captures one graph at a time


@dataclass(frozen=True)
class Shape:
    """The padded size of a batch. Each graph has one shape."""

    rows: int
    """Number of sequences, including padding."""
    view: int
    """Number of cache positions that attention reads per sequence."""

    @classmethod
    def of(cls, rows: int, tokens: int, length: int) -> Shape:
        """Return the smallest shape for `rows` sequences of up to `tokens` tokens.

        The number of rows is rounded up to a power of 2. The view is rounded up to one of a few
        sizes.

        Args:
            rows: Number of sequences.
            tokens: Number of tokens of the longest sequence.
            length: Number of positions per slot (L).
        """
        step = max(MIN_VIEW, (1 << (tokens - 1).bit_length()) // 4)
        return cls(1 << (rows - 1).bit_length(), min(-(-tokens // step) * step, length))


class PaddedLayout:
    """The layout of a captured forward: B rows with one token each, and fixed input tensors.

    Padding rows read position 0. They write to the last position of a slot, which never contains a
    token.

    Args:
        slots: Index of each row's slot, [B].
        positions: Last position that each row attends to, [B].
        writes: Position at which each row's keys and values are stored, [B].
        view: Number of cache positions that attention reads per row.
    """

    def __init__(self, slots: Tensor, positions: Tensor, writes: Tensor, view: int) -> None:
        self.slots = slots
        self.positions = positions
        self.writes = writes
        self.keys = torch.arange(view, device=slots.device)

    def store(self, cached: Tensor, states: Tensor) -> None:
        """Write states [1, H, B, D] into a layer's cache tensor [S, L, H, D]."""
        cached[self.slots, self.writes] = states[0].transpose(0, 1)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        """Compute attention to the first `view` positions of each slot. See `Layout.attend`."""
        view, window = len(self.keys), options.pop("window")
        k = keys[:, :view].index_select(0, self.slots).transpose(1, 2)  # [B, H, view, D]
        v = values[:, :view].index_select(0, self.slots).transpose(1, 2)
        hidden = self.keys > self.positions[:, None]
        if window:
            hidden = hidden | (self.keys <= self.positions[:, None] - window)
        mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
        mask = mask.masked_fill(hidden, -torch.inf)[:, None, None]  # [B, 1, 1, view]
        rows = query[0].transpose(0, 1)[:, :, None]  # [B, Hq, 1, D]
        return grouped_attention(rows, k, v, mask, **options).transpose(0, 1)


class Graph:
    """A captured forward and its input tensors.

    Args:
        shape: Padded size of the batches.
        device: The model's device.
        padding_position: Position at which padding rows store their keys and values.
    """

    replay: Replay

    def __init__(self, shape: Shape, device: torch.device, padding_position: int) -> None:
        self.shape = shape
        self.checked = False
        """Whether a replay agreed with an eager forward."""
        self.inputs = torch.zeros(4, shape.rows, dtype=torch.long, device=device)
        """The slots, positions, writes (see `PaddedLayout`) and token ids of the rows, [4, B]."""
        self.padding_position = padding_position
        self.logit_indices = torch.arange(shape.rows, device=device)
        self.cache_addresses: tuple[int, ...] = ()
        """Addresses of the KV cache's tensors at the capture."""
        slots, positions, writes, _ = self.inputs
        self.layout = PaddedLayout(slots, positions, writes, shape.view)
        self.load(Batch([], []))

    def load(self, batch: Batch) -> None:
        """Copy a batch into the input tensors in one transfer."""
        padding = [0] * (self.shape.rows - len(batch.sequences))
        positions = [len(s.slot.tokens) for s in batch.sequences]
        # Padding rows use slot 0, which a sequence may use too. So they write to a position that
        # contains no token.
        slots = [s.slot.index for s in batch.sequences] + padding
        ids = [s.tokens[n] for s, n in zip(batch.sequences, positions, strict=True)] + padding
        writes = positions + [self.padding_position] * len(padding)
        values = (slots, positions + padding, writes, ids)
        self.inputs.copy_(on_host(values, self.inputs.device, torch.long), non_blocking=True)

    def run(self, run: Run) -> Tensor:
        """Run the forward `run` on the input tensors. Returns logits [rows, V]."""
        return run(self.layout, self.inputs[3:], self.inputs[1:2], self.logit_indices)


class CudaGraphs:
    """The CUDA graphs of one model.

    Args:
        name: Name of the model, for warnings.
        cache: The model's KV cache.
        capture: Captures a forward. See `Capture`.
        device: The model's device.
    """

    def __init__(self, name: str, cache: KVCache, capture: Capture, device: torch.device) -> None:
        self.name = name
        self.cache = cache
        self.device = device
        self.disabled: str | None = None
        """Why the model decodes eagerly. None while graphs are in use."""
        self.graphs: OrderedDict[Shape, Graph] = OrderedDict()
        self.replays = 0
        """Number of replayed forwards."""
        self._capture = capture
        self._runs: Counter[Shape] = Counter()

    @classmethod
    def of(cls, model: PreTrainedModel, spec: ModelSpec, cache: KVCache) -> CudaGraphs | None:
        """Create the graphs of a model. If it cannot be captured, log a warning and return None."""
        make_capture, problem = CAPTURES.get(model.device.type), _capture_problem(model)
        if make_capture is None or problem is not None:
            problem = problem or f"it is on {model.device}"
            logger.warning("%s decodes without CUDA graphs: %s", spec.name, problem)
            return None
        return cls(spec.name, cache, make_capture(model.device), model.device)

    def forward(self, batch: Batch, run: Run) -> Tensor | None:
        """Compute the logits [B, V] of a batch with a graph. None if the batch must run eagerly."""
        if self.disabled is not None or not self.cache.token_bytes:
            return None
        if set(batch.counts) != {1} or set(batch.logit_counts) != {1}:
            return None
        tokens = 1 + max(len(s.slot.tokens) for s in batch.sequences)
        shape = Shape.of(len(batch.sequences), tokens, self.cache.length)
        try:
            graph = self._graph(shape, run)
            if graph is None:
                return None
            graph.load(batch)
            logits = graph.replay()[: len(batch.sequences)]
            if not graph.checked:
                logits = self._check(graph, logits.clone(), run)
        except Exception as error:  # from CUDA or the model's own code
            cause = str(error).strip().partition("\n")[0]
            self._disable(f"{type(error).__name__}: {cause}")
            return None
        self.replays += 1
        return logits

    def _graph(self, shape: Shape, run: Run) -> Graph | None:
        """Return the graph of a shape, and capture it if necessary.

        None for the first `EAGER_RUNS_BEFORE_CAPTURE` batches of the shape.
        """
        graph, addresses = self.graphs.get(shape), self._cache_addresses()
        if graph is not None and graph.cache_addresses == addresses:
            self.graphs.move_to_end(shape)
            return graph
        self._runs[shape] += 1
        if self._runs[shape] <= EAGER_RUNS_BEFORE_CAPTURE:
            return None
        graph = Graph(shape, self.device, self.cache.length - 1)
        with CaptureCheck(self.device):
            graph.run(run)
        graph.replay = self._capture(lambda: graph.run(run))
        graph.cache_addresses = addresses
        self.graphs[shape] = graph
        if len(self.graphs) > MAX_GRAPHS:
            oldest = next(iter(self.graphs))
            del self.graphs[oldest], self._runs[oldest]
        return graph

    def _cache_addresses(self) -> tuple[int, ...]:
        """Return the addresses of the KV cache's tensors. They change when the cache grows."""
        keys = (getattr(layer, "keys", None) for layer in self.cache.layers)
        return tuple(k.data_ptr() for k in keys if k is not None)

    def _check(self, graph: Graph, logits: Tensor, run: Run) -> Tensor:
        """Compare the logits of a graph's first replay with an eager forward.

        If they differ, CUDA graphs are disabled.

        Returns:
            The logits of the eager forward.
        """
        eager = graph.run(run)[: len(logits)]
        rms = (logits.float() - eager.float()).square().mean(-1).sqrt()
        difference = float((rms / eager.float().std(dim=-1).clamp(min=1e-6)).max())
        graph.checked = difference <= TOLERANCE
        if not graph.checked:
            self._disable(
                f"a replay differs from an eager forward by {difference:.2g} standard deviations"
            )
        return eager

    def _disable(self, reason: str) -> None:
        self.disabled = reason
        self.graphs.clear()
        logger.warning(
            "%s decodes without CUDA graphs from now on: %s. Decoding is slower, but its results "
            "are the same. Set cuda_graphs=False to avoid this warning.",
            self.name,
            reason,
        )


class CudaCapture:
    """Captures forwards on a separate CUDA stream. All graphs of a model share one memory pool.

    The shared pool is safe, because one thread replays the graphs one after another, and reads each
    output before the next replay. The capture mode `thread_local` records only the work of this
    thread, so other engines can run during a capture.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> Replay:
        """Run `work` to warm up, then record its kernels. Returns a function that replays them."""
        current = torch.cuda.current_stream(self._stream.device)
        with _capture_lock:
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    output = work()
            finally:  # a failed capture does not restore the current stream
                torch.cuda.set_stream(current)
            current.wait_stream(self._stream)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CudaCapture}
"""Maps a device type to a function that creates its `Capture`."""


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """Return a context manager that runs the thread's GPU work on a separate CUDA stream.

    If all models shared the default stream, each draft token would wait for the target's forward.
    On other devices, the context manager does nothing.
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    # Wait for the work that was queued while the model was loaded. `torch.cuda.synchronize` would
    # also wait for other streams, which makes concurrent captures fail.
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


SYNCHRONIZING_OPS = frozenset(
    "_local_scalar_dense item is_nonzero equal nonzero nonzero_numpy masked_select bincount "
    "_unique _unique2 unique_consecutive unique_dim".split()
)
"""Operations that make the host wait for the device."""


class CaptureCheck(TorchDispatchMode):
    """Raises `RuntimeError` at the first operation that a graph on `device` cannot replay.

    CUDA rejects captures of such operations too, but then torch's random state is invalid.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        on_device = any(t.device == self.device for t in tensors)
        synchronizes = name in SYNCHRONIZING_OPS or func is torch.ops.aten.repeat_interleave.Tensor
        if on_device and synchronizes:
            raise RuntimeError(f"its forward waits for a value from the device (operation {name})")
        mask_dtypes = (torch.bool, torch.uint8)
        has_mask = any(t.dtype in mask_dtypes for t in tensors[1:])
        if on_device and name.startswith("index") and has_mask:
            raise RuntimeError(f"its forward indexes with a mask on the device (operation {name})")
        return func(*args, **(kwargs or {}))


def _capture_problem(model: PreTrainedModel) -> str | None:
    """Return why a model cannot be captured. None if it can be captured."""
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "its layers are on several devices"
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "accelerate moves its weights or inputs (device_map)"
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return "a module has a forward hook, which a replay would not call"
    return None
