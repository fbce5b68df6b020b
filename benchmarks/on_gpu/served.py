"""Draft, target and router of true shapes, each behind a worker of the engine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from langgraph_arbitrage.engine import worker as workers
from langgraph_arbitrage.engine.cuda_graphs import CudaGraphs
from langgraph_arbitrage.engine.requests import GenerateRequest, RequestHandle, ScoreRequest
from langgraph_arbitrage.models.spec import ModelSpec
from random_models import CONTEXT, clock, free_bytes, random_model

__all__ = ["EAGER", "ROLES", "Served", "together"]

ROLES = ("draft", "target", "router")
EAGER = {"draft": "draft, eager", "target": "target, eager"}
"""A second worker of the same model that uses no graphs."""
SLACK = 1.15  # caches and graphs, over the weights


class Served:
    """The three models and their workers."""

    def __init__(self, shapes: Sequence[str], device: str, dtype: torch.dtype) -> None:
        self.shapes = dict(zip(ROLES, shapes, strict=True))
        self.device = device
        self.dtype = dtype
        self.models: dict[str, PreTrainedModel] = {}
        self.workers: dict[str, workers.Worker] = {}

    def needed(self) -> int:
        """Bytes of the weights; an error where the device has not so many."""
        needed = 0
        for role in ROLES:
            model = self._made(role, "meta")
            needed += sum(p.nbytes for p in model.parameters())
        free = free_bytes(self.device)
        if free is not None and free < SLACK * needed:
            raise MemoryError(
                f"the models need {SLACK * needed / 2**30:.1f} GiB with their caches, and "
                f"{free / 2**30:.1f} GiB are free: choose other --pairs or a larger GPU"
            )
        return needed

    def make(self) -> float:
        """Make the models; the seconds that it took."""
        start = clock(self.device)
        for role in ROLES:
            self.models[role] = self._made(role, self.device)
        return clock(self.device) - start

    def _made(self, role: str, device: str) -> PreTrainedModel:
        labels = 2 if role == "router" else None
        return random_model(self.shapes[role], device, self.dtype, labels=labels)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Workers as the engine has them, over these models in the place of checkpoints."""
        load = workers.load_model
        workers.load_model = lambda spec: self.models[spec.path.partition(",")[0]]
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
                self.workers[name] = workers.Worker(spec, None, frozenset(), CONTEXT)  # type: ignore[arg-type]
            yield
        finally:
            for worker in self.workers.values():
                worker.close()
            self.workers.clear()
            workers.load_model = load

    def graphs(self, role: str) -> CudaGraphs | None:
        """The graphs of a worker, once it runs."""
        scheduler = self.workers[role].scheduler
        return scheduler.runner.cuda_graphs if scheduler else None  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Free the models."""
        self.models.clear()
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def write(self, who: str, ids: list[int], tokens: int, draft_tokens: Sequence[int] = ()) -> Any:
        """Have a model write so many tokens."""
        return self._ask(who, GenerateRequest(ids, tokens, draft_tokens=draft_tokens))

    def score(self, ids: list[int], who: str = "router", start: int | None = None) -> Any:
        """Have a model read what follows `start`; the router all at once."""
        return self._ask(who, ScoreRequest(ids, start=len(ids) if start is None else start))

    def _ask(self, who: str, request: GenerateRequest | ScoreRequest) -> Any:
        ticket: RequestHandle[Any] = RequestHandle(request)
        self.workers[who].put(ticket)
        return ticket.result()


def together(items: Any, work: Callable[[Any], Any]) -> list[Any]:
    """What the work makes of each item, one thread an item."""
    listed = list(items)
    if len(listed) == 1:
        return [work(listed[0])]
    with ThreadPoolExecutor(len(listed)) as pool:
        return [done.result() for done in [pool.submit(work, item) for item in listed]]
