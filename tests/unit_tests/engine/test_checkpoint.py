"""Invalid checkpoints, devices and settings are rejected before weights are loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec
from langgraph_arbitrage.engine.attention import PackedLayout
from langgraph_arbitrage.errors import (
    ArbitrageError,
    CheckpointError,
    NotEnoughMemoryError,
    SettingsError,
)
from langgraph_arbitrage.models import checkpoint, memory
from tiny import generate, make, random_ids

PATH = make("llama")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a checkpoint, to modify."""
    return Path(shutil.copytree(PATH, tmp_path / "modified"))


def error_of(path: Path | str, **settings: str) -> str:
    """The message of the `CheckpointError` raised by creating an engine."""
    with pytest.raises(ArbitrageError) as error:
        Engine(ModelSpec(str(path), **settings))
    assert isinstance(error.value, CheckpointError)
    return str(error.value)


def test_a_path_that_does_not_exist_is_rejected() -> None:
    message = error_of("no/such-model")
    assert "no/such-model" in message
    assert "neither a local folder nor a hub id, or the hub cannot be reached" in message


def test_a_folder_without_config_is_rejected(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert f"{tmp_path} is not a checkpoint folder" in message
    assert "no config.json" in message
    assert "save_pretrained" in message


def test_a_file_is_rejected(folder: Path) -> None:
    assert "no config.json" in error_of(folder / "model.safetensors")


def test_an_unknown_architecture_is_rejected(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "no-such-architecture" in error_of(folder)


def test_an_invalid_config_file_is_rejected(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert str(folder) in error_of(folder)


def test_pickled_weights_are_rejected_without_being_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"must not be unpickled")
    message = error_of(folder)
    assert "no safetensors weights" in message
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_a_checkpoint_without_weights_is_rejected(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights at all" in error_of(folder)


def test_a_checkpoint_without_tokenizer_is_rejected(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=f"The tokenizer of {folder} cannot be loaded"):
        _ = Engine(ModelSpec(str(folder))).tokenizer


def test_weights_that_do_not_match_the_config_are_reported(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32, "head_dim": 8}))
    engine = Engine(ModelSpec(str(folder)))
    with pytest.raises(ArbitrageError, match="modified"):
        engine.submit(GenerateRequest([7], 1)).result()
    engine.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:7"}, "'cuda:7' is not on this machine.*CUDA devices: .*device='cpu'"),
        ({"device": "cuda"}, "'cuda' is not on this machine"),
        ({"device": "meta"}, "'meta' is not on this machine"),
        ({"device": "teapot"}, "'teapot' is not a device. Use 'auto', 'cpu', 'cuda'"),
        ({"model_kwargs": {"device_map": {"": "cuda:9"}}}, "'cuda:9' is not on this machine"),
        ({"model_kwargs": {"device_map": {"model": "cpu", "lm_head": 9}}}, "'cuda:9' is not on"),
        ({"model_kwargs": {"device_map": "teapot"}}, "'teapot' is not a device"),
        ({"dtype": "int3"}, "'int3' is not one of auto, float32, bfloat16, float16"),
        ({"max_slots": 0}, "max_slots must be at least 1, not 0"),
        ({"path": ""}, "'' is not a model. Give a local folder, a hub id"),
    ],
)
def test_an_invalid_spec_is_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Engine(ModelSpec(**{"path": PATH} | settings))


def test_missing_memory_is_reported_before_loading(
    monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    path = make("llama", hidden_size=512, intermediate_size=2048)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 11 * 2**20)
    required = checkpoint.HEADROOM * (Path(path) / "model.safetensors").stat().st_size
    message = (
        rf"needs about {required / 2**30:.2f} GiB on cpu in torch.float32, and 0\.01 GiB are free"
    )
    with pytest.raises(NotEnoughMemoryError, match=message) as error:
        Engine(ModelSpec(path))
    assert "Options: dtype='bfloat16', model_kwargs={'quant" in str(error.value)
    assert "device='cpu'" not in str(error.value)  # it is on the CPU already
    assert isinstance(error.value, MemoryError)
    assert not loads


def test_a_model_distributed_over_memory_and_disk_generates_the_same(
    tmp_path: Path, fresh: Callable[..., Engine]
) -> None:
    path = make("llama", endless=True)
    device_map = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm"), "cpu")
    device_map |= {"lm_head": "cpu", "model.layers.0": "cpu"}
    device_map |= dict.fromkeys(("model.layers.1", "model.layers.2"), "disk")
    engine = fresh(path, model_kwargs={"device_map": device_map, "offload_folder": str(tmp_path)})
    handles = [engine.submit(GenerateRequest(random_ids(n), 6)) for n in (5, 9)]
    assert [h.result().ids for h in handles] == [generate(path, random_ids(n), 6) for n in (5, 9)]
    assert engine.backend == "slot"


def test_cache_indices_are_on_the_device_of_each_layer() -> None:
    layout = PackedLayout([0, 3], [4, 0], [1, 2], length=16)
    for device in ("cpu", "meta"):
        room = torch.zeros(4, 16, 2, 4, device=device)
        layout.store(room, torch.ones(1, 2, 3, 4, device=device))
    assert {d.type: p.device.type for d, p in layout._places.items()} == {
        "cpu": "cpu",
        "meta": "meta",
    }


def test_weight_bytes_depend_on_the_dtype(folder: Path) -> None:
    spec = ModelSpec(str(folder))
    size = (folder / "model.safetensors").stat().st_size
    full = checkpoint.weight_bytes(spec, torch.float32)
    assert full == pytest.approx(size, rel=0.05)
    assert checkpoint.weight_bytes(spec, torch.bfloat16) == full // 2


def test_weight_bytes_are_summed_over_shards(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(PATH)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    parts = checkpoint.weight_bytes(ModelSpec(str(tmp_path)), torch.float32)
    assert parts == checkpoint.weight_bytes(ModelSpec(PATH), torch.float32)


def test_the_context_length_is_read_from_several_config_formats() -> None:
    assert Engine(ModelSpec(PATH)).context == 1024
    assert Engine(ModelSpec(make("gpt2"))).context == 1024
    assert Engine(ModelSpec(make("mamba"))).context is None
