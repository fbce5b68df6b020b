"""Tiny random models of many architectures, made by the tests that need them."""

from __future__ import annotations

import atexit
import hashlib
import random
import re
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

ROOT = Path(mkdtemp(prefix="tiny-models-"))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
GQA = {"num_key_value_heads": 2}
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
SLOT_KINDS: dict[str, dict[str, Any]] = {
    "llama": BASE | GQA,
    "qwen2": BASE | GQA,
    "qwen2-sliding": BASE
    | GQA
    | {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    "qwen3": BASE | GQA | {"head_dim": 16},
    "qwen3_moe": BASE
    | GQA
    | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "mistral": BASE | GQA | {"sliding_window": 32},
    "gemma3_text": BASE
    | GQA
    | {"head_dim": 16, "sliding_window": 32, "tie_word_embeddings": False},
    "phi3": BASE | GQA,
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 1024},
}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 32}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MORE_KINDS: dict[str, dict[str, Any]] = {
    "gpt_oss": BASE
    | GQA
    | WINDOWS
    | {"head_dim": 16, "num_hidden_layers": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": BASE
    | GQA
    | WINDOWS
    | {"head_dim": 16, "num_hidden_layers": 4, "tie_word_embeddings": False},
    "gemma4_text": BASE
    | GQA
    | WINDOWS
    | {
        "head_dim": 16,
        "global_head_dim": 32,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "tie_word_embeddings": False,
        "vocab_size_per_layer_input": 400,
        "hidden_size_per_layer_input": 8,
    },
    "smollm3": BASE | GQA,
    "olmo3": BASE | GQA | WINDOWS | {"num_hidden_layers": 4},
    "glm4_moe": BASE | GQA | EXPERTS | {"head_dim": 16, "n_routed_experts": 4, "n_group": 1},
    "minimax_m2": BASE | GQA | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "seed_oss": BASE | GQA | {"head_dim": 16},
    "exaone4": BASE | GQA | WINDOWS | {"num_hidden_layers": 4},
    "ministral": BASE | GQA | WINDOWS | {"head_dim": 16, "num_hidden_layers": 4},
    "ernie4_5": BASE | GQA | {"head_dim": 16},
    "phi": BASE,
    "gpt_neox": BASE,
    "cohere": BASE | GQA,
    "cohere2": BASE | GQA | WINDOWS | {"num_hidden_layers": 4},
    "granite": BASE | GQA,
    "starcoder2": BASE | GQA,
    "stablelm": BASE | GQA,
    "olmo2": BASE | GQA,
}
"""Further architectures, which only some tests run."""
SCALES = {
    **dict.fromkeys(("gemma2", "olmo3", "minimax_m2", "gpt_neox", "starcoder2"), (3, 4)),
    **dict.fromkeys(("gemma4_text", "exaone4", "olmo2"), (3, 1)),
}
"""Factors of the norms' and the embeddings' weights."""
PLAIN_KINDS: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
}
KINDS = SLOT_KINDS | PLAIN_KINDS  # of most tests

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXT = (
    "Ann has 3 apples and buys 4 more at the shop. How many apples has she now?\n\n"
    "She starts with 3 and adds 4.\n\nSo 3 + 4 = 7 and the answer is \\boxed{7}.\n\n"
    "A crate holds 12 jars; 5 crates hold 60 jars in all, and each jar costs 2 dollars. "
)
WORD = re.compile("Ġ[a-z]{2,}|Ċ|[.]|<eos>")
QUESTIONS = [
    "Ann has 3 apples and buys 4. How many has she?",
    "A crate holds 12 jars. How many jars are in 5 crates?",
    "Tell me.",
    "Each jar costs 2 dollars and she buys 7 jars and then 4 more jars at the shop. What is paid?",
    "How many?",
    "She adds 4 to 3 and adds 12 to that. So what is the answer in all?",
    "5 crates and 7 crates hold how many apples, at 3 apples a crate?",
    "Who has 60 jars?",
]


@cache
def tokenizer(vocabulary: int = 400, template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; another `vocabulary` gives other ids."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<eos>", "<pad>", "<user>", "<assistant>", "<end>", "<system>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", bos_token="<eos>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


def make(
    kind: str,
    seed: int = 0,
    *,
    vocabulary: int = 400,
    head: str = "causal-lm",
    template: str = CHAT_TEMPLATE,
    endless: bool = False,
    words: bool = False,
    **overrides: Any,
) -> str:
    """A checkpoint folder; weights spread wide, so that argmax has no ties and texts vary.

    An `endless` model never takes the end token for the most probable one. One with `words`
    writes whole words, full stops and line ends: text that its tokenizer cuts as it was written.
    """
    extras = [f"{name}={value}" for name, value in sorted(overrides.items())]
    flags = ["endless"] * endless + ["words"] * words + ["other"] * (template != CHAT_TEMPLATE)
    name = "-".join([kind, str(seed), str(vocabulary), head, *flags, *extras])
    if len(name) > 150:  # file systems allow 255 bytes
        name = f"{kind}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
    path = ROOT / name
    if path.exists():
        return str(path)
    tok = tokenizer(vocabulary, template)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind.split("-")[0],
        vocab_size=len(tok),
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        **(KINDS | MORE_KINDS).get(kind, BASE) | overrides,
    )
    auto = {
        "causal-lm": AutoModelForCausalLM,
        "sequence-classification": AutoModelForSequenceClassification,
        "token-classification": AutoModelForTokenClassification,
    }[head]
    model = auto.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    for name, parameter in model.named_parameters():  # else these texts repeat one token
        norms, embeddings = SCALES.get(kind, (1, 1))
        if "layers" in name and "norm" in name:
            parameter.data *= norms
        elif parameter is model.get_input_embeddings().weight:
            parameter.data *= embeddings
    if endless:
        model.get_output_embeddings().weight.data[tok.eos_token_id] = 0
    if words:
        others = [i for token, i in tok.get_vocab().items() if not WORD.fullmatch(token)]
        model.get_output_embeddings().weight.data[others] = 0
    model.save_pretrained(path)
    tok.save_pretrained(path)
    return str(path)


def pair(**settings: Any) -> dict[str, str]:
    """A draft of two layers and a target of three, by the names of the settings."""
    return {
        "draft": make("llama", num_hidden_layers=2, **settings),
        "target": make("llama", seed=1, **settings),
    }


def prompt(question: str, vocabulary: int = 400) -> list[int]:
    """The ids of a question through the tiny chat template."""
    return tokenizer(vocabulary).apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
    )["input_ids"]


@cache
def loaded(path: str, auto: type = AutoModelForCausalLM) -> Any:
    """The model of a folder, by `transformers` alone."""
    return auto.from_pretrained(path, dtype=torch.float32).eval()


def generate(path: str, ids: list[int], new: int) -> list[int]:
    """New ids by `transformers` alone, greedy."""
    return list(_generated(path, tuple(ids), new))


@cache
def _generated(path: str, ids: tuple[int, ...], new: int) -> list[int]:
    all_read = torch.ones(1, len(ids), dtype=torch.long)  # it takes pad tokens for padding else
    out = loaded(path).generate(
        torch.tensor([ids]), attention_mask=all_read, max_new_tokens=new, do_sample=False
    )
    return out[0, len(ids) :].tolist()


def random_ids(n: int, seed: int = 0) -> list[int]:
    """Ordinary token ids, no special ones."""
    return [random.Random(f"{seed}/{i}").randrange(10, len(tokenizer())) for i in range(n)]
