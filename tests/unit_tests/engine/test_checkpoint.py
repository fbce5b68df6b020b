"""What is no usable checkpoint is told before anything heavy is loaded."""

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
    """A checkpoint to be spoiled."""
    return Path(shutil.copytree(PATH, tmp_path / "spoiled"))


def refused(path: Path | str, **settings: str) -> str:
    """The message with which a checkpoint is refused, before its weights are read."""
    with pytest.raises(ArbitrageError) as refusal:
        Engine(ModelSpec(str(path), **settings))
    assert isinstance(refusal.value, CheckpointError)
    return str(refusal.value)


def test_a_path_that_is_nowhere_is_refused() -> None:
    message = refused("no/such-model")
    assert "no/such-model" in message
    assert "no folder here, and the hub does not have it or cannot be reached" in message


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path)
    assert str(tmp_path) in message
    assert "no config.json" in message
    assert "save_pretrained" in message


def test_a_file_is_refused(folder: Path) -> None:
    assert "no config.json" in refused(folder / "model.safetensors")


def test_a_config_of_no_known_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "no-such-architecture" in refused(folder)


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert str(folder) in refused(folder)


def test_pickled_weights_are_refused_and_never_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"whoever unpickles this has lost")
    message = refused(folder)
    assert "no safetensors weights" in message
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_a_checkpoint_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights at all" in refused(folder)


def test_a_checkpoint_without_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{folder} has no tokenizer"):
        _ = Engine(ModelSpec(str(folder))).tokenizer


def test_weights_of_another_shape_are_told(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32, "head_dim": 8}))
    engine = Engine(ModelSpec(str(folder)))
    with pytest.raises(ArbitrageError, match="spoiled"):
        engine.submit(GenerateRequest([7], 1)).result()
    engine.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"device": "cuda:7"}, "'cuda:7' is not on this machine.*CUDA devices: .*device='cpu'"),
        ({"device": "cuda"}, "'cuda' is not on this machine"),
        ({"device": "meta"}, "'meta' is not on this machine"),
        ({"device": "teapot"}, "'teapot' is no device: use auto, cpu, cuda"),
        ({"model_kwargs": {"device_map": {"": "cuda:9"}}}, "'cuda:9' is not on this machine"),
        ({"model_kwargs": {"device_map": {"model": "cpu", "lm_head": 9}}}, "'cuda:9' is not on"),
        ({"model_kwargs": {"device_map": "teapot"}}, "'teapot' is no device"),
        ({"dtype": "int3"}, "'int3' is not one of auto, float32, bfloat16, float16"),
        ({"max_slots": 0}, "max_slots must be at least 1, not 0"),
        ({"path": ""}, "a local folder or a hub id, not ''"),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Engine(ModelSpec(**{"path": PATH} | settings))


def test_too_little_memory_is_told_before_loading(
    monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    path = make("llama", hidden_size=512, intermediate_size=2048)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 11 * 2**20)
    needed = checkpoint.HEADROOM * (Path(path) / "model.safetensors").stat().st_size
    told = rf"needs about {needed / 2**30:.2f} GiB on cpu in torch.float32, and 0\.01 GiB are free"
    with pytest.raises(NotEnoughMemoryError, match=told) as refusal:
        Engine(ModelSpec(path))
    assert "What helps: dtype='bfloat16', model_kwargs={'quant" in str(refusal.value)
    assert "device='cpu'" not in str(refusal.value)  # it is there already
    assert isinstance(refusal.value, MemoryError)
    assert not loads


def test_a_model_that_is_spread_over_memory_and_disk_writes_the_same(
    tmp_path: Path, fresh: Callable[..., Engine]
) -> None:
    path = make("llama", endless=True)
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm"), "cpu")
    places |= {"lm_head": "cpu", "model.layers.0": "cpu"}
    places |= dict.fromkeys(("model.layers.1", "model.layers.2"), "disk")
    engine = fresh(path, model_kwargs={"device_map": places, "offload_folder": str(tmp_path)})
    found = [engine.submit(GenerateRequest(random_ids(n), 6)) for n in (5, 9)]
    assert [t.result().ids for t in found] == [generate(path, random_ids(n), 6) for n in (5, 9)]
    assert engine.backend == "slot"


def test_places_in_the_cache_follow_a_layer_to_its_device() -> None:
    layout = PackedLayout([0, 3], [4, 0], [1, 2], length=16)
    for device in ("cpu", "meta"):
        room = torch.zeros(4, 16, 2, 4, device=device)
        layout.store(room, torch.ones(1, 2, 3, 4, device=device))
    assert {d.type: p.device.type for d, p in layout._places.items()} == {
        "cpu": "cpu",
        "meta": "meta",
    }


def test_bytes_needed_are_those_of_the_dtype(folder: Path) -> None:
    spec = ModelSpec(str(folder))
    size = (folder / "model.safetensors").stat().st_size
    full = checkpoint.weight_bytes(spec, torch.float32)
    assert full == pytest.approx(size, rel=0.05)
    assert checkpoint.weight_bytes(spec, torch.bfloat16) == full // 2


def test_bytes_of_weights_in_several_files_are_summed(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(PATH)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    parts = checkpoint.weight_bytes(ModelSpec(str(tmp_path)), torch.float32)
    assert parts == checkpoint.weight_bytes(ModelSpec(PATH), torch.float32)


def test_the_context_is_read_from_configs_of_several_kinds() -> None:
    assert Engine(ModelSpec(PATH)).context == 1024
    assert Engine(ModelSpec(make("gpt2"))).context == 1024
    assert Engine(ModelSpec(make("mamba"))).context is None
