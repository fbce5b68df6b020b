"""Tiny checkpoints of the public formats of PRMs, laid out as those on the hub are."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from langgraph_arbitrage.scorers import SurpriseHead, SurpriseScorer
from tiny import BASE, GQA, ROOT, TEXT, make

__all__ = ["math_shepherd", "qwen_prm", "rlhflow", "surprise", "trl", "value_head"]


def trl(labels: int = 2, head: str = "token-classification") -> str:
    """A classifier with generic labels, as TRL's trainers save one."""
    return make("llama", head=head, num_labels=labels, num_hidden_layers=4)


def rlhflow() -> str:
    """A plain causal LM: nothing in it says what it is for."""
    return make("llama", seed=3, num_hidden_layers=4)


def surprise(folder: Path, role: str = "router", **pair: str) -> str:
    """Our own: surprise features of a causal LM, here the tiny draft, with a random head."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 9), "b1": (8,), "w2": (8,), "b2": (1,), "mean": (9,), "deviation": (9,)}
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    weights["deviation"] = np.abs(weights["deviation"]) + 3
    base, head = make("llama", num_hidden_layers=2, endless=True), SurpriseHead(weights)
    SurpriseScorer(str(folder), base, "<user>", "<end>", head=head, role=role, **pair).save(folder)
    return str(folder)


@cache
def value_head(wrapped: bool = False, architecture: str = "Qwen2ForPrmModel") -> str:
    """Skywork-o1-Open-PRM: a causal LM's weights and `v_head.summary` beside them."""
    path = _copy(make("qwen2", seed=3), f"value-{wrapped}-{architecture}")
    weights = load_file(path / "model.safetensors")
    if wrapped:  # as the wrapper that it was trained in names them
        weights = {f"pretrained_model.{name}": weight for name, weight in weights.items()}
    torch.manual_seed(5)
    weights["v_head.summary.weight"] = torch.randn(1, BASE["hidden_size"]) / 4
    weights["v_head.summary.bias"] = torch.randn(1)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    _change(path / "config.json", architectures=[architecture])
    return str(path)


@cache
def qwen_prm() -> str:
    """Qwen2.5-Math-PRM: its `score` layers, its token, and a config that names remote code."""
    base = make("qwen2", seed=4)
    path = _copy(base, "qwen-prm")
    weights = load_file(path / "model.safetensors")
    weights.pop("lm_head.weight")
    torch.manual_seed(6)
    width = BASE["hidden_size"]
    for layer, (rows, columns) in {"score.0": (width, width), "score.2": (2, width)}.items():
        weights[f"{layer}.weight"] = torch.randn(rows, columns) / 4
        weights[f"{layer}.bias"] = torch.randn(rows) / 4
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    _change(
        path / "config.json",
        architectures=["Qwen2ForProcessRewardModel"],
        auto_map={
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
    )
    # In the place of a token that is in no text: the vocabulary stays as large as the model's.
    raw = json.loads((path / "tokenizer.json").read_text())
    _rename(raw, "<system>", "<extra_0>")
    (path / "tokenizer.json").write_text(json.dumps(raw))
    return str(path)


@cache
def math_shepherd() -> str:
    """Math-Shepherd: a Mistral, and a tokenizer that makes ` ки`, ` +` and ` -` one token each."""
    path = ROOT / "math-shepherd"
    tokenizer = _sentencepiece()
    torch.manual_seed(7)
    config = AutoConfig.for_model("mistral", vocab_size=len(tokenizer), **BASE | GQA)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def _sentencepiece() -> PreTrainedTokenizerFast:
    """A BPE over words with a blank before each, other characters as bytes, BOS before a text."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    corpus = [TEXT.replace("\n", " ") + " ки + - " * 9]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    raw = json.loads(bpe.to_str())
    raw["added_tokens"] = raw["added_tokens"][:3]  # bytes are no special tokens
    bpe = Tokenizer.from_str(json.dumps(raw))
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _copy(path: str, name: str) -> Path:
    return Path(shutil.copytree(path, ROOT / name))


def _change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _rename(tokenizer: dict[str, Any], old: str, new: str) -> None:
    for token in tokenizer["added_tokens"]:
        if token["content"] == old:
            token["content"] = new
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[new] = vocabulary.pop(old)
