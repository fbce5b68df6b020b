"""What sees what really happens: models loaded, tokens fed, slots held.

They look at the models and the scheduler themselves, never at the figures that are reported.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mamba.modeling_mamba import MambaModel

from langgraph_arbitrage.engine import ModelSpec, worker
from langgraph_arbitrage.engine.scheduler import Scheduler

__all__ = ["fed", "loads", "schedulers", "until"]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Tokens fed through each model, by its number of layers; `clear()` it after loading."""
    counts: Counter[int] = Counter()

    def count(model_class: type) -> None:
        forward = model_class.forward

        def counting(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
            counts[self.config.num_hidden_layers] += input_ids.numel()
            return forward(self, input_ids, *args, **kwargs)

        monkeypatch.setattr(model_class, "forward", counting)

    for model_class in (LlamaModel, MambaModel):
        count(model_class)
    return counts


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the models that were loaded, in order."""
    paths: list[str] = []
    load = worker.load_model

    def noting(spec: ModelSpec) -> PreTrainedModel:
        paths.append(spec.path)
        return load(spec)

    monkeypatch.setattr(worker, "load_model", noting)
    return paths


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> list[Scheduler]:
    """All schedulers made; the last one of a model is in use, those before were trials."""
    made: list[Scheduler] = []
    init = Scheduler.__init__

    def noting(self: Scheduler, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Scheduler, "__init__", noting)
    return made


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
