"""Create draft, target and router with random weights, each run by a worker of the engine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from langgraph_arbitrage.engine import worker as engine_worker
from langgraph_arbitrage.engine.cuda_graphs import CudaGraphs
from langgraph_arbitrage.engine.requests import GenerateRequest, RequestHandle, ScoreRequest
from langgraph_arbitrage.models.spec import ModelSpec
from random_models import CONTEXT, clock, free_bytes, random_model

__all__ = ["EAGER", "ROLES", "ModelWorkers", "run_concurrently"]

ROLES = ("draft", "target", "router")
EAGER = {"draft": "draft, eager", "target": "target, eager"}
"""Name of a second worker of the same model, without CUDA graphs."""
MEMORY_FACTOR = 1.15
"""Required memory relative to the weights, for KV caches and CUDA graphs."""


class ModelWorkers:
    """The three models and their workers.

    Args:
        shapes: Shapes of draft, target and router.
        device: Device of the models.
        dtype: Dtype of the weights.
    """

    def __init__(self, shapes: Sequence[str], device: str, dtype: torch.dtype) -> None:
        self.shapes = dict(zip(ROLES, shapes, strict=True))
        self.device = device
        self.dtype = dtype
        self.models: dict[str, PreTrainedModel] = {}
        self.workers: dict[str, engine_worker.Worker] = {}

    def weight_bytes(self) -> int:
        """Compute the bytes of all weights.

        Raises:
            MemoryError: The free memory of the device is too small.
        """
        needed = 0
        for role in ROLES:
            model = self._create(role, "meta")
            needed += sum(p.nbytes for p in model.parameters())
        free = free_bytes(self.device)
        if free is not None and free < MEMORY_FACTOR * needed:
            raise MemoryError(
                f"the models and their caches need {MEMORY_FACTOR * needed / 2**30:.1f} GiB, but "
                f"only {free / 2**30:.1f} GiB are free: choose other --pairs or a larger GPU"
            )
        return needed

    def create(self) -> float:
        """Create the models and return the seconds it took."""
        start = clock(self.device)
        for role in ROLES:
            self.models[role] = self._create(role, self.device)
        return clock(self.device) - start

    def _create(self, role: str, device: str) -> PreTrainedModel:
        labels = 2 if role == "router" else None
        return random_model(self.shapes[role], device, self.dtype, labels=labels)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Run workers that use these models instead of loading checkpoints."""
        load = engine_worker.load_model
        engine_worker.load_model = lambda spec: self.models[spec.path.partition(",")[0]]
        try:
            for name in (*ROLES, *EAGER.values()):
                kind: Any = "token-classification" if name == "router" else "causal-lm"
                spec = ModelSpec(
                    name,
                    kind=kind,
                    device=self.device,
                    engine="eager",
                    cuda_graphs=name not in EAGER.values(),
                )
                self.workers[name] = engine_worker.Worker(spec, None, frozenset(), CONTEXT)  # type: ignore[arg-type]
            yield
        finally:
            for worker in self.workers.values():
                worker.close()
            self.workers.clear()
            engine_worker.load_model = load

    def graphs(self, role: str) -> CudaGraphs | None:
        """Return the CUDA graphs of a worker; None before its first request."""
        scheduler = self.workers[role].scheduler
        return scheduler.runner.cuda_graphs if scheduler else None  # type: ignore[attr-defined]

    def free(self) -> None:
        """Free the memory of the models."""
        self.models.clear()
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def generate(
        self, name: str, ids: list[int], tokens: int, draft_tokens: Sequence[int] = ()
    ) -> Any:
        """Generate `tokens` tokens with the worker `name`."""
        return self._submit(name, GenerateRequest(ids, tokens, draft_tokens=draft_tokens))

    def score(self, ids: list[int], name: str = "router", start: int | None = None) -> Any:
        """Score `ids` with the worker `name`. A causal LM scores the ids from `start`."""
        return self._submit(name, ScoreRequest(ids, start=len(ids) if start is None else start))

    def _submit(self, name: str, request: GenerateRequest | ScoreRequest) -> Any:
        handle: RequestHandle[Any] = RequestHandle(request)
        self.workers[name].put(handle)
        return handle.result()


def run_concurrently(items: Any, work: Callable[[Any], Any]) -> list[Any]:
    """Apply `work` to all items at the same time, each on a thread of its own."""
    items = list(items)
    if len(items) == 1:
        return [work(items[0])]
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))
