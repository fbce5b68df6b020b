"""Models in GGUF files give the texts of the same weights in safetensors files."""

import importlib.util
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
from langgraph_arbitrage.errors import CheckpointError, MissingExtraError, NotEnoughMemoryError
from langgraph_arbitrage.models import checkpoint
from langgraph_arbitrage.models.checkpoint import weight_bytes
from langgraph_arbitrage.models.fingerprint import fingerprint
from tiny import CHAT_TEMPLATE, QUESTIONS, make

gguf = pytest.importorskip("gguf")


def write_gguf(folder: str, path: Path) -> str:
    """Write a tiny Qwen2 checkpoint as a GGUF file, by the format's own names."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokenizer = json.loads((Path(folder) / "tokenizer.json").read_text())
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_types([3 if text in special else 1 for text, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_bos_token_id(config.eos_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), weight.float().numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A GGUF file, and a folder with the same weights and tokenizer."""
    folder = tmp_path_factory.mktemp("gguf")
    shutil.copytree(make("qwen2", endless=True), folder / "twin")
    file = write_gguf(str(folder / "twin"), folder / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf")
    tokenizer.save_pretrained(folder / "twin")
    return file, str(folder / "twin")


def chat(draft: str, target: str, **settings: Any) -> ChatArbitrage:
    settings = {"router": AlwaysTarget(), "max_tokens": 20, "temperature": 0.0} | settings
    return ChatArbitrage(draft=draft, target=target, **settings)


def test_a_gguf_model_reads_and_writes_as_its_twin(twins: tuple[str, str]) -> None:
    file, folder = twins
    one, other = (load_tokenizer(ModelSpec(path)) for path in twins)
    for question in QUESTIONS:
        message = [{"role": "user", "content": question}]
        assert one.render(message) == other.render(message)
    with_gguf, with_folder = chat(file, file), chat(folder, folder)
    for question in QUESTIONS[:3]:
        reply, twin = with_gguf.invoke(question), with_folder.invoke(question)
        assert reply.content == twin.content
    assert reply.response_metadata["arbitrage"]["engine"] == {"target": "slot"}
    with_gguf.close()
    with_folder.close()


def test_a_gguf_draft_works_with_a_safetensors_target(twins: tuple[str, str]) -> None:
    file, folder = twins
    with closing(chat(file, folder, router=None)) as llm:
        assert llm.invoke(QUESTIONS[0]).text


def test_the_memory_needed_is_that_of_the_dequantized_weights(
    twins: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF file of 4 bits a weight needs four times its size in bfloat16."""
    spec = ModelSpec(twins[0])
    weights = AutoModelForCausalLM.from_pretrained(twins[1]).num_parameters()
    assert weight_bytes(spec, torch.bfloat16) == 2 * weights
    monkeypatch.setattr(checkpoint.memory, "free_bytes", lambda device: 1000)
    llm = chat(twins[0], twins[0])
    with pytest.raises(NotEnoughMemoryError, match="tiny"):
        llm.invoke("Hi")


def test_the_file_identifies_the_model(twins: tuple[str, str], tmp_path: Path) -> None:
    other = write_gguf(make("qwen2", seed=1, endless=True), tmp_path / "tiny.gguf")
    assert len({fingerprint(ModelSpec(path)) for path in (*twins, other)}) == 3


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no\.gguf is not a file.*local path"):
        chat("no.gguf", "no.gguf").invoke("Hi")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(10))
    with pytest.raises(CheckpointError, match=r"broken\.gguf"):
        chat(str(path), str(path)).invoke("Hi")


def test_a_missing_package_is_named_with_its_extra(
    twins: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "langgraph_arbitrage.models.gguf.find_spec",
        lambda name: None if name == "gguf" else find(name),
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'langgraph-arbitrage\[gguf\]'"):
        chat(twins[0], twins[0]).invoke("Hi")
