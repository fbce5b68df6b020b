"""`arbitrage fit`: memory of two models from their configs alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from langgraph_arbitrage.cli.program import main
from langgraph_arbitrage.engine import ModelSpec
from langgraph_arbitrage.models import memory
from langgraph_arbitrage.models.fit import memory_needs
from tiny import make, pair


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2-sliding", "gemma3_text", "gpt2", "qwen3_moe", "gpt_oss", "phi3"]
)
def test_weights_and_cache_are_those_of_the_loaded_model(kind: str) -> None:
    path = make(kind)
    model = AutoModelForCausalLM.from_pretrained(path)
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    numbers = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    needs = memory_needs(ModelSpec(path, dtype="float32"))
    assert needs.parameters == model.num_parameters()
    assert needs.token == 4 * numbers / 3
    assert needs.weights == pytest.approx(4 * model.num_parameters(), rel=0.01)
    assert memory_needs(ModelSpec(path, dtype="bfloat16")).token == needs.token / 2


def test_a_model_without_a_kv_cache_needs_none() -> None:
    assert memory_needs(ModelSpec(make("mamba"))).token == 0


def without_weights(folder: Path, **config: Any) -> str:
    """A checkpoint whose weights are not downloaded yet."""
    shutil.copytree(make("llama"), folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    return str(folder)


def test_the_config_alone_suffices(tmp_path: Path) -> None:
    path = without_weights(tmp_path / "bare")
    spec = ModelSpec(path, dtype="bfloat16")
    parameters = AutoModelForCausalLM.from_pretrained(make("llama")).num_parameters()
    assert memory_needs(spec).weights == 2 * parameters


def test_the_weights_of_a_quantized_checkpoint_are_counted_in_its_bits(tmp_path: Path) -> None:
    quantized = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    four = memory_needs(ModelSpec(without_weights(tmp_path / "awq", **quantized)))
    full = memory_needs(ModelSpec(without_weights(tmp_path / "full")))
    assert four.quantized
    assert 0.2 < four.weights / full.weights < 0.9  # embeddings stay unquantized


def test_a_pair_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    paths = pair()
    assert main(["fit", paths["draft"], paths["target"], "--concurrency", "2"]) == 0
    shown = capsys.readouterr().out
    assert "KV cache: 2 sequences of 4,096 tokens." in shown
    assert shown.rstrip().endswith("It fits.")


def test_a_pair_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 2**20)
    paths = pair()
    assert main(["fit", paths["draft"], paths["target"]]) == 1
    shown = capsys.readouterr().out
    assert "0.00 GiB free" in shown
    for option in ("--dtype bfloat16", "--concurrency 1", "4 bits a weight", "a smaller model"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "--concurrency must be at least 1, not 0"),
        (["--tokens", "-5"], "--tokens must be at least 1, not -5"),
        (["--device", "cuda:7"], "is not on this machine"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = pair()
    assert main(["fit", paths["draft"], paths["target"], *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "no/such-model", pair()["target"]]) == 2
    assert "no/such-model" in capsys.readouterr().err
