"""A checkpoint's generation_config.json holds, in greedy decoding and in sampling.

Each case stands for a public report; the sources are named beside it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage, DraftConfidence, Random
from langgraph_arbitrage.errors import CheckpointError, SettingsError
from langgraph_arbitrage.models.context import declared_context
from tiny import QUESTIONS, make

RULES: dict[str, dict[str, Any]] = {
    # EleutherAI/lm-evaluation-harness#3154, NVIDIA-NeMo/RL#3497, ggml-org/llama.cpp#27659
    "repetition penalty": {"repetition_penalty": 1.3},
    # huggingface/text-generation-inference#51: the penalty holds in greedy decoding too
    "penalty below one": {"repetition_penalty": 0.9},
    # NVIDIA/TensorRT-LLM#16594
    "n-grams": {"no_repeat_ngram_size": 2},
    # microsoft/onnxruntime-genai#2201
    "suppressed tokens": {"suppress_tokens": list(range(200, 300))},
    "suppressed first tokens": {"begin_suppress_tokens": list(range(50, 380))},
    # huggingface/text-generation-inference#176, huggingface/transformers#14206
    "bad words": {"bad_words_ids": [[7], [20, 21], [300]]},
    "minimum length": {"min_new_tokens": 20},
    "all together": {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_new_tokens": 9},
}
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
Checkpoint = Callable[..., str]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Copy a tiny model and give it other generation values."""

    def copy(seed: int = 0, *, endless: bool = False, **values: Any) -> str:
        folder = tmp_path / f"model-{seed}"
        shutil.copytree(make("qwen2", seed, endless=endless), folder, dirs_exist_ok=True)
        file = folder / "generation_config.json"
        own = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(own | values))
        return str(folder)

    return copy


def expected(path: str, question: str, tokens: int) -> str:
    """The text of `generate(do_sample=False)`."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    return tokenizer.decode(expected_ids(path, question, tokens), skip_special_tokens=True)


def expected_ids(path: str, question: str, tokens: int) -> list[int]:
    """Its token ids."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def chat(path: str, draft: str | None = None, **settings: Any) -> ChatArbitrage:
    base = {"draft": draft or path, "target": path, "router": AlwaysTarget(), "max_tokens": 40}
    return ChatArbitrage(**base | settings)


@pytest.mark.parametrize("values", RULES.values(), ids=RULES)
def test_greedy_answers_equal_those_of_generate(
    values: dict[str, Any], checkpoint: Checkpoint
) -> None:
    path = checkpoint(**values)
    llm = chat(path, temperature=0)
    for question in QUESTIONS[:2]:
        assert llm.invoke(question).text == expected(path, question, 40).rstrip("\n")
    llm.close()


@pytest.mark.parametrize("values", RULES.values(), ids=RULES)
def test_penalties_hold_at_every_verified_position_and_across_steps(
    values: dict[str, Any], checkpoint: Checkpoint
) -> None:
    """Steps of six tokens; the target verifies another model's steps."""
    path = checkpoint(endless=True, **values)
    llm = chat(
        path,
        draft=checkpoint(1, endless=True),
        router=Random(1.0),
        separator=".",
        max_step_tokens=6,
        temperature=0,
    )
    message = llm.invoke(QUESTIONS[0])
    assert message.text == expected(path, QUESTIONS[0], 40).rstrip("\n.")
    assert len(message.response_metadata["arbitrage"]["steps"]) > 5
    llm.close()


def test_the_draft_follows_the_penalties_of_the_target(checkpoint: Checkpoint) -> None:
    draft = checkpoint(1, endless=True)
    penalized = checkpoint(0, endless=True, suppress_tokens=list(range(100, 390)))
    llm = chat(penalized, draft=draft, router=DraftConfidence(0.0), temperature=0, logprobs=True)
    message = llm.invoke(QUESTIONS[0])
    assert {s["writer"] for s in message.response_metadata["arbitrage"]["steps"]} == {"draft"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(draft)
    assert all(token < 100 for token in tokenizer.encode(message.text)[:5])
    llm.close()


def test_scores_are_raw_log_probabilities(checkpoint: Checkpoint) -> None:
    """A penalty changes the choice of a token, not the confidence that is reported of it."""
    path = checkpoint(endless=True, suppress_tokens=list(range(50, 390)))
    llm = chat(path, temperature=0, logprobs=True, max_tokens=5)
    logprobs = [t["logprob"] for t in llm.invoke("Hi").response_metadata["logprobs"]["content"]]
    assert all(-100 < value < -0.1 for value in logprobs)  # improbable, not impossible
    llm.close()


@pytest.mark.parametrize(
    ("values", "settings", "sampled"),
    [
        (SAMPLING, {}, True),
        (SAMPLING, {"temperature": 0}, False),
        (SAMPLING, {"generation_config": "ignore"}, False),
        ({"temperature": 0.7, "top_p": 0.8}, {}, False),  # do_sample is not set
        ({}, {"temperature": 1.0}, True),
    ],
)
def test_sampling_follows_the_checkpoint_unless_it_is_set(
    values: dict[str, Any], settings: dict[str, Any], sampled: bool, checkpoint: Checkpoint
) -> None:
    """QwenLM/Qwen3 and others publish do_sample with values: greedy thinking models loop."""
    llm = chat(checkpoint(endless=True, **values), **settings)
    texts = {llm.invoke(QUESTIONS[0], seed=seed).text for seed in range(4)}
    assert (len(texts) > 1) == sampled
    llm.close()


def test_explicit_values_win_one_by_one(checkpoint: Checkpoint) -> None:
    from langgraph_arbitrage.loop.generation import Generation

    llm = chat(checkpoint(**SAMPLING, min_p=0.05, max_new_tokens=7), top_p=0.5, max_tokens=None)
    generation = Generation(llm._models, llm._models.run_settings)
    sampling = generation.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.5, 20)
    assert (sampling.min_p, generation.max_tokens) == (0.05, 7)
    llm.close()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"eos_token_id": [[1, 2], 3]}, r"eos_token_id must be a token id or a list"),
        ({"repetition_penalty": "strong"}, "repetition_penalty must be a number above 0"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0"),
        ({"top_p": 1.5}, "top_p must be a number above 0 and at most 1, not 1.5"),
        ({"suppress_tokens": "all"}, "suppress_tokens must be a list of token ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids must be a list of non-empty lists"),
        ({"max_new_tokens": 0}, "max_new_tokens` must be greater than 0"),
    ],
)
def test_an_invalid_value_is_named(
    values: dict[str, Any], told: str, checkpoint: Checkpoint
) -> None:
    with pytest.raises(CheckpointError, match=told):
        chat(checkpoint(**values)).invoke("Hi")


@pytest.mark.parametrize("several", [False, True])
def test_every_end_token_of_a_list_ends_the_answer(several: bool, checkpoint: Checkpoint) -> None:
    """Blaizzy/mlx-vlm#309, huggingface/lighteval#1279, vllm-project/vllm#1136."""
    first = expected_ids(make("qwen2"), QUESTIONS[0], 1)[0]
    path = checkpoint(eos_token_id=[3, first] if several else first)
    message = chat(path, temperature=0).invoke(QUESTIONS[0])
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata["output_tokens"] == 1


@pytest.mark.parametrize(
    ("config", "context"),
    [
        # Qwen/Qwen2.5 README, turboderp-org/exllamav2#642, NovaSky-AI/SkyRL#561
        ({"max_position_embeddings": 32768, "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        # NVIDIA/Megatron-LM#1418: the extended length is declared
        ({"max_position_embeddings": 163840, "rope_scaling": {
            "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}, 163840),
        # vllm-project/vllm#53634: no double scaling
        ({"max_position_embeddings": 1048576, "rope_parameters": {"rope_type": "deepseek_yarn",
            "factor": 32, "original_max_position_embeddings": 32768}}, 1048576),
        # hiyouga/LlamaFactory#633
        ({"max_position_embeddings": 4096,
          "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 4096,
          "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope",
            "original_max_position_embeddings": 4096}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3",
            "factor": 8.0, "original_max_position_embeddings": 8192}}, 131072),
        ({"n_positions": 1024}, 1024),
        ({}, None),
    ],
)  # fmt: skip
def test_contexts_of_scaled_rope(config: dict[str, Any], context: int | None) -> None:
    assert declared_context(config) == context


def test_a_negative_stop_token_is_refused() -> None:
    with pytest.raises(SettingsError, match="stop_token_ids must be 0 or more"):
        ChatArbitrage(stop_token_ids=(-1,))
