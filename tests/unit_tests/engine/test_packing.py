"""Packed weights of linear layers: the same numbers, and only where they are faster."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import AutoModelForCausalLM

from langgraph_arbitrage.engine import (
    Engine,
    ModelSpec,
    Score,
    Write,
    memory,
    packing,
    traces,
)
from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.engine.packed_linear import (
    PackedLinear,
    copied,
    is_packed,
    packed_layers,
)
from langgraph_arbitrage.engine.packing import pack
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.engine.traces import Traces
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
SPEC = ModelSpec(PATH)
IDS = torch.tensor([random_ids(9)])


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny layers, which gain nothing, are worth it too."""
    monkeypatch.setattr(packing, "FROM", 0)
    monkeypatch.setattr(packing, "WORTH", 0)
    monkeypatch.setattr(packing, "FASTER", float("inf"))


def loaded(path: str = PATH, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **options).eval().requires_grad_(False)


def linears(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if type(m) is nn.Linear]


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3_moe", "gemma3_text", "phi3", "gpt2"])
@torch.inference_mode()
def test_a_packed_model_computes_what_it_did(kind: str) -> None:
    model = loaded(make(kind))
    before, size = model(IDS).logits, footprint(model)
    assert pack(model, SPEC)
    assert is_packed(model)
    assert not linears(model)
    assert torch.allclose(model(IDS).logits, before, atol=1e-3, rtol=1e-4)
    after = footprint(model)
    assert (after.parameters, after.operations) == (size.parameters, size.operations)


@pytest.mark.usefixtures("pays")
@torch.inference_mode()
def test_half_precision_is_packed_where_the_cpu_can() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = loaded(dtype=dtype)
        before = model(IDS).logits
        packed = pack(model, SPEC)
        assert is_packed(model) is packed
        assert torch.allclose(model(IDS).logits, before, atol=0.5, rtol=0.05)


@pytest.mark.usefixtures("pays")
def test_the_engine_writes_and_scores_the_same_alone_and_many_at_once(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    packed, plain = fresh(PATH), fresh(PATH, engine="eager")
    asked = [random_ids(5 + 7 * n, seed=n) for n in range(6)]
    tickets = [packed.submit(Write(ids, 20)) for ids in asked]
    assert [t.result().ids for t in tickets] == [generate(PATH, ids, 20) for ids in asked]
    found, wanted = (
        [t.result().logprobs for t in [engine.submit(Score(ids)) for ids in asked]]
        for engine in (packed, plain)
    )
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(torch.tensor(one), torch.tensor(other), atol=1e-3)
    models = [s.backend.model for s in schedulers]  # type: ignore[attr-defined]
    assert {is_packed(model) for model in models[:-1]} == {True, False}
    assert not is_packed(models[-1])
    assert packed.backend == "slot"


@pytest.mark.usefixtures("pays")
def test_a_trace_takes_packed_weights_and_leaves_the_layers_their_own(
    fresh: Make,
    schedulers: list[Scheduler],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "MET", 1)
    path = make("qwen2", endless=True)  # some of its layers have a bias
    engine = fresh(path)
    for seed in range(3):
        ids = random_ids(20, seed=seed)
        assert engine.submit(Write(ids, 20)).result().ids == generate(path, ids, 20)
    many = [random_ids(5 + 7 * n, seed=n) for n in range(6)]
    tickets = [engine.submit(Write(ids, 20)) for ids in many]
    assert [t.result().ids for t in tickets] == [generate(path, ids, 20) for ids in many]
    scheduler = schedulers[-1]
    faster = scheduler.backend.faster  # type: ignore[attr-defined]
    assert isinstance(faster, Traces)
    assert faster.forwards > 40
    assert faster.why_not is None
    layers = packed_layers(scheduler.backend.model)  # type: ignore[attr-defined]
    pairs = zip(layers, faster.weights, strict=True)
    assert all(layer.weight is weight for layer, weight in pairs)
    assert all(layer.weight.is_mkldnn for layer in layers)
    assert "without traces" not in caplog.text
    assert scheduler.crew is None  # each hand would read all weights


@pytest.mark.usefixtures("pays")
def test_a_large_packed_model_is_not_traced(
    fresh: Make, schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MOST", 1000)
    engine = fresh(PATH)
    engine.submit(Write(random_ids(9), 5)).result()
    backend: Any = schedulers[-1].backend
    assert is_packed(backend.model)
    assert backend.faster is None


@pytest.mark.usefixtures("pays")
def test_a_shared_output_head_is_packed_only_where_memory_is_plenty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = make("llama", tie_word_embeddings=True)
    model = loaded(path)
    head = model.lm_head.weight
    size = footprint(model)
    assert pack(model, SPEC)
    assert isinstance(model.lm_head, PackedLinear)
    assert copied(model) == head.numel()
    assert footprint(model).parameters == size.parameters
    assert footprint(model).operations == size.operations
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * head.nbytes - 1)
    model = loaded(path)
    assert pack(model, SPEC)
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not copied(model)


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_a_model_that_reads_a_layers_weights_itself_keeps_them(
    tied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded(make("llama", tie_word_embeddings=tied))
    layer = model.model.layers[0].mlp
    own = layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        return own(x) + (layer.gate_proj.weight @ x.transpose(1, 2)).sum(1, keepdim=True).mT

    layer.forward = forward
    before = model(IDS).logits
    weights = {name: p.clone() for name, p in model.named_parameters()}
    with caplog.at_level(logging.INFO):
        assert not pack(model, SPEC)
    assert "keeps its weights as they were loaded" in caplog.text
    assert not is_packed(model)
    assert torch.allclose(model(IDS).logits, before, atol=1e-3, rtol=1e-4)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights.pop(name))
    assert not weights
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied


@pytest.mark.usefixtures("pays")
def test_a_model_that_would_compute_something_else_keeps_its_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded()
    right = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: 1.1 * right(self, x))
    with caplog.at_level(logging.INFO):
        assert not pack(model, SPEC)
    assert "it computes something else" in caplog.text
    assert len(linears(model)) == len(linears(loaded()))


def _offloaded() -> Any:
    return cpu_offload(loaded())


def _quantized() -> Any:
    model = loaded()
    model.hf_quantizer = object()
    return model


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize(
    ("make_model", "settings"),
    [
        (loaded, {"engine": "eager"}),
        (loaded, {"engine": "plain"}),
        (_offloaded, {}),
        (_quantized, {}),
    ],
    ids=["eager", "plain", "offloaded", "quantized"],
)
def test_what_is_not_packed(make_model: Callable[[], Any], settings: dict[str, Any]) -> None:
    model = make_model()
    assert not pack(model, ModelSpec(PATH, **settings))
    assert not is_packed(model)


def test_where_it_is_not_faster_or_cannot_be_done_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not pack(loaded(), SPEC)  # tiny
    monkeypatch.setattr(packing, "FROM", 0)
    assert not pack(loaded(), SPEC)  # no layer is worth it
    monkeypatch.setattr(packing, "WORTH", 0)
    monkeypatch.setattr(packing, "FASTER", 0.0)
    assert not pack(loaded(), SPEC)
    monkeypatch.setattr(packing, "FASTER", float("inf"))

    def refuse(*_: object) -> None:
        raise RuntimeError("this CPU cannot")

    with monkeypatch.context() as patched:
        patched.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
        assert not pack(loaded(), SPEC)
    assert pack(loaded(), SPEC)
