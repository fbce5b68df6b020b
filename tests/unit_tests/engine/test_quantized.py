"""Models quantized at load, and checkpoints that are quantized already."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from langgraph_arbitrage import ChatArbitrage, embedded
from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec
from langgraph_arbitrage.errors import CheckpointError, MissingExtraError, NotEnoughMemoryError
from langgraph_arbitrage.models import checkpoint, memory
from langgraph_arbitrage.models.quantization import bits_per_weight
from tiny import make, random_ids

BITS4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    # Required module, config, and maximum size relative to float32.
    "4 bits": ("bitsandbytes", BITS4, 0.25),
    "8 bits": ("bitsandbytes", {"load_in_8bit": True}, 0.4),
    "int8 of torchao": (
        "torchao",
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}
            },
        },
        0.4,
    ),
    "int8 of torchao with quantized activations": (
        "torchao",
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_type": "Int8DynamicActivationInt8WeightConfig",
                    "_version": 2,
                    "_data": {},
                }
            },
        },
        0.4,
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_model_runs_in_batches_and_is_smaller(
    method: str, fresh: Callable[..., Engine]
) -> None:
    module, config, max_ratio = METHODS[method]
    pytest.importorskip(module, reason=f"needs {module}")
    path = embedded.TARGET
    whole, quantized = fresh(path), fresh(path, model_kwargs={"quantization_config": config})
    sizes = []
    for engine in (whole, quantized):
        engine.submit(GenerateRequest(random_ids(20), 4)).result()
        assert engine.backend == "slot"
        footprint = engine.footprint
        assert footprint is not None
        sizes.append(footprint.weights)
    assert sizes[1] < max_ratio * sizes[0]
    estimate = checkpoint.weight_bytes(quantized.spec, torch.float32)
    assert estimate == pytest.approx(sizes[1], rel=0.15)


def test_a_4_bit_copy_of_the_target_can_be_its_draft() -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    target = embedded.TARGET
    model = ChatArbitrage(draft=target, target=target, draft_kwargs={"quantization_config": BITS4})
    answer = model.invoke("A shop has 12 boxes of 30 pens. How many pens are there?")
    sizes = [model._models.engine(role).footprint for role in ("draft", "target")]
    model.close()
    assert answer.content
    draft, whole = sizes
    assert draft is not None
    assert whole is not None
    assert draft.weights < 0.25 * whole.weights


def test_draft_kwargs_and_target_kwargs_apply_to_one_model() -> None:
    model = ChatArbitrage(
        model_kwargs={"attn_implementation": "eager"},
        draft_kwargs={"attn_implementation": "sdpa"},
        target_kwargs={"low_cpu_mem_usage": True},
        cuda_graphs=False,
    )
    draft, target = (model._models.engine(role).spec for role in ("draft", "target"))  # type: ignore[arg-type]
    assert draft.model_kwargs == {"attn_implementation": "sdpa"}
    assert target.model_kwargs == {"attn_implementation": "eager", "low_cpu_mem_usage": True}
    assert draft.cuda_graphs is target.cuda_graphs is False


MISSING = [
    (BITS4, "bitsandbytes", r"pip install 'langgraph-arbitrage\[quantized\]'"),
    ({"load_in_8bit": True}, "bitsandbytes", r"pip install 'langgraph-arbitrage\[quantized\]'"),
    ({"quant_method": "torchao", "quant_type": "int8"}, "torchao", "pip install torchao"),
    ({"quant_method": "gptq", "bits": 4}, "gptqmodel", "pip install gptqmodel"),
]


@pytest.mark.parametrize(("config", "module", "install"), MISSING)
def test_a_missing_package_is_reported_with_its_install_command(
    config: dict[str, Any], module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=rf"will be quantized .* {module}.* {install}"):
        Engine(ModelSpec(embedded.DRAFT, model_kwargs={"quantization_config": config}))


def test_a_missing_package_of_a_quantized_checkpoint_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig

    path = make("llama")
    config = AutoConfig.from_pretrained(path)
    config.quantization_config = BITS4
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(Path(path) / "model.safetensors")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="is quantized by bitsandbytes"):
        Engine(ModelSpec(str(tmp_path)))


PUBLISHED = [
    # Qwen/Qwen2.5-7B-Instruct-AWQ
    (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
        MissingExtraError,
        "awq and needs the package gptqmodel.*pip install gptqmodel",
    ),
    # Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4
    (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True},
        MissingExtraError,
        "gptq and needs the package gptqmodel.*pip install gptqmodel",
    ),
    # RedHatAI/Qwen2.5-7B-Instruct-FP8-dynamic
    (
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        MissingExtraError,
        "compressed-tensors and needs .*pip install compressed-tensors",
    ),
    # Intel/Qwen2.5-7B-Instruct-int4-AutoRound
    (
        {"quant_method": "auto-round", "bits": 4, "group_size": 128},
        MissingExtraError,
        "auto-round and needs the package auto_round.*pip install auto-round",
    ),
    # meta-llama/Llama-3.1-405B-Instruct-FP8
    ({"quant_method": "fbgemm_fp8"}, CheckpointError, "fbgemm fp8 quantization requires a GPU"),
    ({"quant_method": "exl2", "bits": 4.0}, CheckpointError, "quantized by exl2, which transform"),
]


@pytest.mark.parametrize(("config", "error", "message"), PUBLISHED)
def test_a_published_checkpoint_that_cannot_be_loaded_is_refused(
    config: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    copy_with(config, make("llama"), tmp_path)
    with pytest.raises(error, match=message):
        Engine(ModelSpec(str(tmp_path))).submit(GenerateRequest([1, 2], 2)).result()


def copy_with(config: dict[str, Any], source: str, folder: Path) -> None:
    """Copy a checkpoint and declare its weights as quantized."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": config}))


def test_an_fp8_checkpoint_is_dequantized_on_a_cpu(
    tmp_path: Path, fresh: Callable[..., Engine]
) -> None:
    """Qwen/Qwen3-8B-FP8 and others: blocks of 128 x 128 weights with one scale each."""
    from safetensors.torch import load_file, save_file

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
    source = make("llama", endless=True, **sizes)
    config = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    copy_with(config | {"activation_scheme": "dynamic"}, source, tmp_path / "fp8")
    shutil.copytree(source, tmp_path / "plain")
    stored, rounded = {}, {}
    for name, weight in load_file(Path(source) / "model.safetensors").items():
        stored[name] = rounded[name] = weight
        if "proj" in name:
            blocks = weight.unflatten(0, (-1, 128)).unflatten(-1, (-1, 128))  # [r, 128, c, 128]
            scales = blocks.abs().amax(dim=(1, 3), keepdim=True) / 448
            quantized = (blocks / scales).to(torch.float8_e4m3fn)
            stored[name] = quantized.reshape(weight.shape)
            stored[f"{name}_scale_inv"] = scales[:, 0, :, 0].contiguous()
            rounded[name] = (quantized.float() * scales).reshape(weight.shape)
    save_file(stored, tmp_path / "fp8" / "model.safetensors", {"format": "pt"})
    save_file(rounded, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    outputs = [
        fresh(str(tmp_path / name)).submit(GenerateRequest(random_ids(20), 12)).result().ids
        for name in ("fp8", "plain")
    ]
    assert outputs[0] == outputs[1]


def test_a_quantized_checkpoint_is_loaded_as_stored(
    tmp_path: Path, fresh: Callable[..., Engine]
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(embedded.TARGET, quantization_config=BITS4)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded.TARGET).save_pretrained(tmp_path)
    at_load = fresh(embedded.TARGET, model_kwargs={"quantization_config": BITS4})
    stored = fresh(str(tmp_path))
    outputs = [
        engine.submit(GenerateRequest(random_ids(20), 8)).result().ids
        for engine in (at_load, stored)
    ]
    assert outputs[0] == outputs[1]
    size = (tmp_path / "model.safetensors").stat().st_size
    assert checkpoint.weight_bytes(stored.spec, torch.float32) == pytest.approx(size, rel=0.2)


def test_the_memory_check_uses_the_quantized_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langgraph_arbitrage.engine.engine.check_quantization", lambda *_: None)
    path = make("llama", hidden_size=512, intermediate_size=2048)
    whole = checkpoint.weight_bytes(ModelSpec(path), torch.float32)
    assert whole is not None
    monkeypatch.setattr(memory, "free_bytes", lambda device: whole // 2)
    with pytest.raises(NotEnoughMemoryError, match="quantization_config"):
        Engine(ModelSpec(path))
    Engine(ModelSpec(path, model_kwargs={"quantization_config": BITS4}))
    monkeypatch.setattr(memory, "free_bytes", lambda device: whole // 20)
    with pytest.raises(NotEnoughMemoryError, match=r"float32, quantized.* Options: (?!.*4 or)"):
        Engine(ModelSpec(path, model_kwargs={"quantization_config": BITS4}))


def test_stored_quantized_weights_count_with_their_stored_size(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = make("llama")
    tensors = {"a": torch.zeros(100, dtype=torch.uint8), "b": torch.zeros(10, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((Path(path) / "config.json").read_text())
    assert checkpoint.weight_bytes(ModelSpec(str(tmp_path)), torch.float32) == 100 + 40


def test_bits_are_read_from_config_objects_and_dicts() -> None:
    from transformers import BitsAndBytesConfig

    assert (
        bits_per_weight(BitsAndBytesConfig(load_in_4bit=True))
        == bits_per_weight({"load_in_4bit": True})
        == 4
    )
    assert bits_per_weight(BitsAndBytesConfig(load_in_8bit=True)) == 8
    kinds = ({"_type": "Int4WeightOnlyConfig"}, {"_type": "Int8WeightOnlyConfig"})
    one = {"quant_method": "torchao", "quant_type": {"default": kinds[0]}}
    two = {"quant_method": "torchao", "quant_type": dict(zip("ab", kinds, strict=True))}
    assert bits_per_weight(one) == 4
    assert bits_per_weight(two) is None
    assert bits_per_weight({"quant_method": "hqq"}) is None
