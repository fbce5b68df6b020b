"""Packed weights: the same results, and only used if they are faster."""

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
    GenerateRequest,
    ModelSpec,
    ScoreRequest,
    cpu,
    worker,
)
from langgraph_arbitrage.engine.cpu import PackedLinear, is_packed, parameter_count
from langgraph_arbitrage.engine.cpu import pack as pack_model
from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.engine.load_check import plain_logits
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import EngineError
from langgraph_arbitrage.models import memory
from tiny import generate, make, random_ids

Make = Callable[..., Engine]
PATH = make("llama", endless=True)
SPEC = ModelSpec(PATH)
IDS = torch.tensor([random_ids(9)])


@pytest.fixture
def always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack tiny layers too, although they are not faster."""
    monkeypatch.setattr(cpu, "MIN_PACKED_PARAMETERS", 0)
    monkeypatch.setattr(cpu, "MIN_PACKED_WEIGHTS", 0)
    monkeypatch.setattr(cpu, "MAX_RATIO", float("inf"))


def pack(model: Any, spec: ModelSpec) -> bool:
    return pack_model(model, spec, lambda: plain_logits(model))


def loaded(path: str = PATH, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **options).eval().requires_grad_(False)


def linears(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if type(m) is nn.Linear]


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3_moe", "gemma3_text", "phi3", "gpt2"])
@torch.inference_mode()
def test_a_packed_model_computes_the_same(kind: str) -> None:
    model = loaded(make(kind))
    before, sizes = model(IDS).logits, footprint(model)
    assert pack(model, SPEC)
    assert is_packed(model)
    assert not linears(model)
    assert torch.allclose(model(IDS).logits, before, atol=1e-3, rtol=1e-4)
    after = footprint(model)
    assert (after.parameters, after.operations) == (sizes.parameters, sizes.operations)


@pytest.mark.usefixtures("always_faster")
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_packed_if_the_cpu_supports_it(dtype: torch.dtype) -> None:
    try:
        PackedLinear(torch.ones(8, 8, dtype=dtype))(torch.ones(1, 8, dtype=dtype))
    except RuntimeError:
        supported = False
    else:
        supported = True
    model = loaded(dtype=dtype)
    before = model(IDS).logits
    assert pack(model, SPEC) is supported
    assert is_packed(model) is supported
    assert torch.allclose(model(IDS).logits, before, atol=0.5, rtol=0.05)


@pytest.mark.usefixtures("always_faster")
@torch.inference_mode()
def test_small_logits_are_compared_relative_to_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a value head may be small."""
    model = loaded(dtype=torch.bfloat16)
    model.lm_head.weight *= 1e-3
    weights = {name: p.clone() for name, p in model.named_parameters()}

    def nothing(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features)

    monkeypatch.setattr(PackedLinear, "forward", nothing)
    assert not pack(model, SPEC)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])


@pytest.mark.usefixtures("always_faster")
def test_packed_engines_generate_and_score_the_same(
    fresh: Make, schedulers: list[Scheduler]
) -> None:
    packed, plain = fresh(PATH), fresh(PATH, engine="eager")
    inputs = [random_ids(5 + 7 * n, seed=n) for n in range(6)]
    handles = [packed.submit(GenerateRequest(ids, 20)) for ids in inputs]
    assert [h.result().ids for h in handles] == [generate(PATH, ids, 20) for ids in inputs]
    with_packing, without = (
        [h.result().logprobs for h in [engine.submit(ScoreRequest(ids)) for ids in inputs]]
        for engine in (packed, plain)
    )
    for a, b in zip(with_packing, without, strict=True):
        assert torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-3)
    models = [s.runner.model for s in schedulers]  # type: ignore[attr-defined]
    assert [is_packed(model) for model in models] == [True, False]
    assert packed.backend == "slot"


@pytest.mark.usefixtures("always_faster")
def test_a_shared_output_head_is_only_packed_with_enough_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"num_hidden_layers": 1, "intermediate_size": 32}  # most weights are in the head
    path = make("llama", tie_word_embeddings=True, **small)
    model = loaded(path)
    head = model.lm_head.weight
    sizes = footprint(model)
    assert pack(model, SPEC)
    assert isinstance(model.lm_head, PackedLinear)
    assert model.num_parameters() == sizes.parameters + head.numel()
    assert footprint(model).parameters == parameter_count(model) == sizes.parameters
    assert footprint(model).operations == sizes.operations
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * head.nbytes - 1)
    model = loaded(path)
    assert pack(model, SPEC)
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert is_packed(model)
    monkeypatch.setattr(
        memory, "free_bytes", lambda device: 1000
    )  # not enough for the other layers
    assert not pack(loaded(path), SPEC)


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_output_head_is_only_timed_if_there_are_no_other_layers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[nn.Linear] = []
    monkeypatch.setattr(cpu, "_is_faster", timed.append)  # returns None: not faster
    model = loaded(make(kind))
    assert not pack(model, SPEC)
    # The layers of GPT-2 are not nn.Linear.
    expected = model.lm_head if kind == "gpt2" else model.model.layers[0].mlp.gate_proj
    assert timed == [expected]


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_a_model_whose_own_code_reads_weights_keeps_them(
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
    assert "are not packed" in caplog.text
    assert not is_packed(model)
    assert torch.allclose(model(IDS).logits, before, atol=1e-3, rtol=1e-4)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights.pop(name))
    assert not weights
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied


@pytest.mark.usefixtures("always_faster")
def test_a_model_whose_logits_would_differ_keeps_its_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded()
    right = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: 1.1 * right(self, x))
    with caplog.at_level(logging.INFO):
        assert not pack(model, SPEC)
    assert "its logits differ" in caplog.text
    assert len(linears(model)) == len(linears(loaded()))


def _offloaded() -> Any:
    return cpu_offload(loaded())


def _quantized() -> Any:
    model = loaded()
    model.hf_quantizer = object()
    return model


@pytest.mark.usefixtures("always_faster")
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
def test_other_engines_and_modified_models_are_not_packed(
    make_model: Callable[[], Any], settings: dict[str, Any]
) -> None:
    model = make_model()
    assert not pack(model, ModelSpec(PATH, **settings))
    assert not is_packed(model)


@pytest.mark.usefixtures("always_faster")
@torch.inference_mode()
def test_layers_with_hooks_or_changes_are_not_packed() -> None:
    model = loaded()
    layers = model.model.layers
    seen: list[int] = []
    layers[0].mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    layers[1].mlp.up_proj.register_forward_pre_hook(lambda *_: seen.append(2))
    own = layers[2].mlp.up_proj.forward
    layers[2].mlp.up_proj.forward = lambda x: (seen.append(3), own(x))[1]
    nn.utils.parametrizations.weight_norm(layers[0].mlp.gate_proj)
    layers[1].mlp.gate_proj.weight = layers[2].mlp.gate_proj.weight  # shared by two layers
    before = model(IDS).logits
    seen.clear()
    assert pack(model, SPEC)
    seen.clear()
    assert torch.allclose(model(IDS).logits, before, atol=1e-3, rtol=1e-4)
    assert seen == [1, 2, 3]
    unpacked = {name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert unpacked == {f"model.layers.{n}.mlp.{m}_proj" for n in range(3) for m in ("up", "gate")}


@pytest.mark.usefixtures("always_faster")
def test_a_failing_packed_layer_changes_neither_model_nor_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(PackedLinear, "forward", fail)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert not pack(loaded(), SPEC)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("always_faster")
def test_packing_draws_no_random_numbers() -> None:
    model = loaded()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert pack(model, SPEC)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_packed_if_it_is_not_faster_or_not_supported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not pack(loaded(), SPEC)  # a small model
    monkeypatch.setattr(cpu, "MIN_PACKED_PARAMETERS", 0)
    assert not pack(loaded(), SPEC)  # small layers
    monkeypatch.setattr(cpu, "MIN_PACKED_WEIGHTS", 0)
    monkeypatch.setattr(cpu, "MAX_RATIO", 0.0)
    assert not pack(loaded(), SPEC)
    monkeypatch.setattr(cpu, "MAX_RATIO", float("inf"))

    def refuse(*_: object) -> None:
        raise RuntimeError("not supported by this CPU")

    with monkeypatch.context() as patched:
        patched.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
        assert not pack(loaded(), SPEC)
    assert pack(loaded(), SPEC)


def test_a_new_thread_does_not_try_packing_again_if_it_did_not_help(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(worker, "pack", lambda model, spec, logits: bool(tried.append(spec.path)))
    engine = fresh(PATH)
    ids = random_ids(9)
    expected = engine.submit(GenerateRequest(ids, 5)).result().ids
    with monkeypatch.context() as patched:
        patched.setattr(Scheduler, "step", lambda *_: 1 / 0)
        with pytest.raises(EngineError):
            engine.submit(GenerateRequest(ids, 5)).result()
    assert engine.submit(GenerateRequest(ids, 5)).result().ids == expected
    assert tried == [PATH]
