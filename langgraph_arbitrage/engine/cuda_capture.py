"""CUDA graphs themselves: all that needs a GPU stands here.

No GPU has run this yet. Every call of a capture or a replay is made under a `try` that goes back
to eager (`decode_graphs`), and the first replay of each graph is compared with an eager forward.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from langgraph_arbitrage.forks import ForkLock

__all__ = ["CAPTURES", "Capture", "CudaCapture", "Replay", "own_stream"]

Replay = Callable[[], Tensor]
"""Runs what was captured, on the same memory; its output is overwritten by the next one."""
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Turns work on fixed tensors into its replay."""

WARM_UPS = 2  # runs before a capture: they set up what libraries make at their first call

_capturing = ForkLock()  # one capture at a time in the process


class CudaCapture:
    """Captures on a stream of its own; all graphs of a model share one pool of memory.

    They may: one thread replays them one after another, and what one has written is read before
    the next begins. Only what this thread does is part of a capture (`thread_local`): workers of
    other models go on meanwhile.
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
            finally:  # a capture that fails does not go back to it
                torch.cuda.set_stream(usual)
            usual.wait_stream(self._stream)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CudaCapture}
"""How a kind of device captures; a kind that is not here decodes eagerly."""


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """A stream for all that this thread does on a GPU; nothing elsewhere.

    On the stream that threads share, a draft's token would wait for the target's forward.
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    # After what loading has queued. To wait for the whole device would break others' captures.
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)
