"""CUDA graphs of decoding: a forward of one token per sequence, captured once per shape.

At batch 1 a GPU spends most of an eager token waiting for Python to start the next kernel. A graph
starts them all at once. It works on fixed memory, so a batch is padded to one of a few shapes, and
a graph whose cache has moved is captured again. The first replay of each graph is compared with the
same function run eagerly. After any failure the model decodes eagerly, with one warning.

No GPU has run this yet: `cuda_graphs=True` turns it on. `CAPTURES` says how a kind of device
captures, so that the tests run everything else on a CPU.
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

SEEN_BEFORE_CAPTURE = 8  # a capture costs about as many eager forwards
MAX_GRAPHS = 48  # of a model; the least recently used is dropped
MIN_VIEW = 64  # positions that the smallest graph reads
WARM_UPS = 2  # runs before a capture, which set up what libraries make at their first call
TOLERANCE = 0.02  # of a replay, in standard deviations of the logits: the kernels are the same

Replay = Callable[[], Tensor]
"""Runs the captured kernels on the same memory. The next replay overwrites its output."""
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Captures a function of fixed tensors."""
Run = Callable[[Layout, Tensor, Tensor, Tensor], Tensor]
"""Layout, ids [1, T], positions [1, T], kept places [W] → logits [W, V]."""

_capturing = ForkLock()  # one capture at a time in the process


@dataclass(frozen=True)
class Shape:
    """What a graph is captured for."""

    rows: int
    """Sequences, padding included."""
    view: int
    """Positions that are read."""

    @classmethod
    def of(cls, rows: int, tokens: int, length: int) -> Shape:
        """The smallest shape for `rows` sequences of up to `tokens`: at most half too large."""
        step = max(MIN_VIEW, (1 << (tokens - 1).bit_length()) // 4)
        return cls(1 << (rows - 1).bit_length(), min(-(-tokens // step) * step, length))


class PaddedLayout:
    """One token of each row, with slots and positions in tensors of fixed memory.

    Padding rows read position 0 and write to the last position of a slot, which is never valid.

    Args:
        slots: Slot of each row, [B].
        positions: Position that each row attends up to, [B].
        writes: Position that each row's keys and values are written to, [B].
        view: Positions that are read.
    """

    def __init__(self, slots: Tensor, positions: Tensor, writes: Tensor, view: int) -> None:
        self.slots = slots
        self.positions = positions
        self.writes = writes
        self.keys = torch.arange(view, device=slots.device)

    def store(self, room: Tensor, states: Tensor) -> None:
        """Write states [1, H, B, D] into a layer's tensor [S, L, H, D]."""
        room[self.slots, self.writes] = states[0].transpose(0, 1)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        """Queries [1, Hq, B, D] over the first positions of each row's slot: [1, B, Hq, D]."""
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
    """A captured forward and the memory that it works on."""

    replay: Replay

    def __init__(self, shape: Shape, device: torch.device, spare: int) -> None:
        self.shape = shape
        self.checked = False
        self.inputs = torch.zeros(4, shape.rows, dtype=torch.long, device=device)
        self.spare = spare
        self.kept = torch.arange(shape.rows, device=device)
        self.moved: tuple[int, ...] = ()
        """Where the cache was at the capture."""
        slots, positions, writes, _ = self.inputs
        self.layout = PaddedLayout(slots, positions, writes, shape.view)
        self.load(Batch([], []))

    def load(self, batch: Batch) -> None:
        """Copy a batch into the graph's inputs, in one transfer."""
        padding = [0] * (self.shape.rows - len(batch.sequences))
        held = [len(s.slot.tokens) for s in batch.sequences]
        # Padding shares a slot with a row, but writes where nothing is ever valid.
        slots = [s.slot.index for s in batch.sequences] + padding
        ids = [s.tokens[n] for s, n in zip(batch.sequences, held, strict=True)] + padding
        writes = held + [self.spare] * len(padding)
        values = (slots, held + padding, writes, ids)
        self.inputs.copy_(on_host(values, self.inputs.device, torch.long), non_blocking=True)

    def run(self, run: Run) -> Tensor:
        """The forward that is captured: logits [rows, V]."""
        return run(self.layout, self.inputs[3:], self.inputs[1:2], self.kept)


class CudaGraphs:
    """The graphs of one model."""

    def __init__(self, name: str, cache: KVCache, capture: Capture, device: torch.device) -> None:
        self.name = name
        self.cache = cache
        self.device = device
        self.disabled: str | None = None
        """Why the model decodes eagerly from now on."""
        self.graphs: OrderedDict[Shape, Graph] = OrderedDict()
        self.replays = 0
        self._capture = capture
        self._seen: Counter[Shape] = Counter()

    @classmethod
    def of(cls, model: PreTrainedModel, spec: ModelSpec, cache: KVCache) -> CudaGraphs | None:
        """The graphs of a model, none captured yet; None, with a warning, where it has none."""
        make, why = CAPTURES.get(model.device.type), _why_not(model)
        if make is None or why is not None:
            why = why or f"it is on {model.device}"
            logger.warning("%s decodes without CUDA graphs: %s", spec.name, why)
            return None
        return cls(spec.name, cache, make(model.device), model.device)

    def forward(self, batch: Batch, run: Run) -> Tensor | None:
        """Logits [B, V] of a batch by a graph; None where the batch has to run eagerly."""
        if self.disabled is not None or not self.cache.token_bytes:
            return None
        if set(batch.counts) != {1} or set(batch.wanted) != {1}:
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
                logits = self._checked(graph, logits.clone(), run)
        except Exception as error:  # of CUDA or of the model's own code
            cause = str(error).strip().partition("\n")[0]
            self._disable(f"{type(error).__name__}: {cause}")
            return None
        self.replays += 1
        return logits

    def _graph(self, shape: Shape, run: Run) -> Graph | None:
        graph, place = self.graphs.get(shape), self._place()
        if graph is not None and graph.moved == place:
            self.graphs.move_to_end(shape)
            return graph
        self._seen[shape] += 1
        if self._seen[shape] <= SEEN_BEFORE_CAPTURE:
            return None
        graph = Graph(shape, self.device, self.cache.length - 1)
        with CaptureCheck(self.device):
            graph.run(run)
        graph.replay = self._capture(lambda: graph.run(run))
        graph.moved = place
        self.graphs[shape] = graph
        if len(self.graphs) > MAX_GRAPHS:
            oldest = next(iter(self.graphs))
            del self.graphs[oldest], self._seen[oldest]
        return graph

    def _place(self) -> tuple[int, ...]:
        """Where the cache's tensors are: they move when the cache grows."""
        keys = (getattr(layer, "keys", None) for layer in self.cache.layers)
        return tuple(k.data_ptr() for k in keys if k is not None)

    def _checked(self, graph: Graph, logits: Tensor, run: Run) -> Tensor:
        """Compare a graph's first replay with the same function, not captured."""
        wanted = graph.run(run)[: len(logits)]
        apart = (logits.float() - wanted.float()).square().mean(-1).sqrt()
        worst = float((apart / wanted.float().std(dim=-1).clamp(min=1e-6)).max())
        graph.checked = worst <= TOLERANCE
        if not graph.checked:
            self._disable(f"a replay is {worst:.2g} standard deviations away from an eager forward")
        return wanted

    def _disable(self, why: str) -> None:
        self.disabled = why
        self.graphs.clear()
        logger.warning(
            "%s decodes without CUDA graphs from here on, slower and with the same results: %s. "
            "cuda_graphs=False turns them off from the start.",
            self.name,
            why,
        )


class CudaCapture:
    """Captures on a stream of its own. All graphs of a model share one memory pool.

    They may: one thread replays them one after another, and each output is read before the next
    replay. Only what this thread does is captured (`thread_local`), so other engines run meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> Replay:
        """Run the work to warm up, then once more while its kernels are recorded, not run."""
        usual = torch.cuda.current_stream(self._stream.device)
        with _capturing:
            self._stream.wait_stream(usual)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    output = work()
            finally:  # a failed capture does not restore it
                torch.cuda.set_stream(usual)
            usual.wait_stream(self._stream)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CudaCapture}


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """A stream for everything that this thread does on a GPU; nothing elsewhere.

    On the default stream, a draft's token would wait for the target's forward.
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    # After what loading has queued. Waiting for the whole device would break others' captures.
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


READS = frozenset(
    "_local_scalar_dense item is_nonzero equal nonzero nonzero_numpy masked_select bincount "
    "_unique _unique2 unique_consecutive unique_dim".split()
)
"""Operations that the host waits for."""


class CaptureCheck(TorchDispatchMode):
    """Raises at the first operation that no graph on `device` can repeat.

    CUDA refuses such captures too, but a refused capture leaves torch's random state behind.
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
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        here = any(t.device == self.device for t in given)
        if here and (name in READS or func is torch.ops.aten.repeat_interleave.Tensor):
            raise RuntimeError(f"its forward waits for a value of the device ({name})")
        masked = (torch.bool, torch.uint8)
        if here and name.startswith("index") and any(t.dtype in masked for t in given[1:]):
            raise RuntimeError(f"its forward selects by a mask of the device ({name})")
        return func(*args, **(kwargs or {}))


def _why_not(model: PreTrainedModel) -> str | None:
    """Why a model cannot be captured; None where it can."""
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "its layers are on several devices"
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "accelerate moves its weights or inputs (device_map)"
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return "a module has a forward hook, which a replay would not call"
    return None
