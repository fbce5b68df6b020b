"""The embedded checkpoints and their training code."""

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_arbitrage import embedded
from langgraph_arbitrage.embedded.make.chats import EXCLUDED_WORDS, chats
from langgraph_arbitrage.embedded.make.model import config, forward, grow, initial, to_hugging_face
from langgraph_arbitrage.embedded.problems import Problem

ROLES = {"draft": embedded.DRAFT, "reader": embedded.READER, "target": embedded.TARGET}
PACKAGE = Path(embedded.DRAFT).parent


@cache
def model(role: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(ROLES[role], dtype=torch.float32).eval()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.TARGET)


@torch.no_grad()
def solves(role: str, problem: Problem) -> bool:
    """True if every token of the reference solution is the argmax, as in greedy decoding."""
    messages = [
        {"role": "user", "content": problem.question},
        {"role": "assistant", "content": problem.solution},
    ]
    prompt, text = (
        tokenizer().apply_chat_template(m, add_generation_prompt=is_prompt, tokenize=False)
        for m, is_prompt in ((messages[:1], True), (messages, False))
    )
    start = len(tokenizer().encode(prompt, add_special_tokens=False))
    ids = torch.tensor([tokenizer().encode(text, add_special_tokens=False)])
    return bool((model(role)(ids).logits[0, start - 1 : -1].argmax(-1) == ids[0, start:]).all())


def test_all_embedded_models_stay_under_25_megabytes() -> None:
    files = [f for f in PACKAGE.rglob("*") if f.is_file() and f.suffix != ".pyc"]
    assert sum(f.stat().st_size for f in files) < 25e6


@pytest.mark.parametrize("role", ROLES)
def test_checkpoints_have_a_context_of_4096_tokens_and_the_end_token_of_the_template(
    role: str,
) -> None:
    assert model(role).config.max_position_embeddings == 4096
    assert model(role).generation_config.eos_token_id == 2
    assert AutoTokenizer.from_pretrained(ROLES[role]).eos_token_id == 2


@pytest.mark.parametrize("role", ROLES)
def test_the_model_card_states_that_the_model_is_a_demo(role: str) -> None:
    card = (Path(ROLES[role]) / "README.md").read_text()
    assert "arithmetic demo, not a language model" in card


def test_the_target_solves_more_than_the_draft() -> None:
    easy = [p for p in embedded.problems(40, seed=11) if not p.hard]
    draft, target = (sum(solves(role, p) for p in easy) for role in ("draft", "target"))
    assert draft < target
    assert target >= 0.85 * len(easy)


def test_no_model_solves_most_of_the_hard_problems() -> None:
    hard = [p for p in embedded.problems(80, seed=12) if p.hard][:12]
    for role in ROLES:
        assert sum(solves(role, p) for p in hard) <= 0.4 * len(hard)


@torch.no_grad()
def test_the_training_forward_computes_the_logits_of_llama() -> None:
    cfg = config(width=32, layers=2, heads=2, vocab=50)
    weights = initial(cfg, seed=0)
    for name in ("o", "down"):
        weights[name].normal_(0, 0.1)
    ids = torch.randint(0, 50, (2, 9))
    positions = torch.arange(9).expand(2, 9)
    mask = torch.full((9, 9), -1e9).triu(1).expand(2, 1, 9, 9)
    with torch.compiler.set_stance("force_eager"):
        logits = forward(weights, ids, positions, mask, heads=2) @ weights["embed"].T
    assert torch.allclose(logits, to_hugging_face(weights, cfg)(ids).logits, atol=1e-5)


def test_growing_a_model_does_not_change_its_logits() -> None:
    weights = initial(config(32, 2, 2, 50), seed=0)
    for name in ("o", "down"):
        weights[name].normal_(0, 0.1)
    ids = torch.randint(0, 50, (1, 9))
    shallow = to_hugging_face(weights, config(32, 2, 2, 50))(ids).logits
    deep = to_hugging_face(grow(weights, 5, seed=1), config(32, 5, 2, 50))(ids).logits
    assert torch.allclose(shallow, deep, atol=1e-6)


def test_held_out_chats_use_names_that_do_not_occur_in_training() -> None:
    names: list[set[str]] = [set(), set()]
    for held_out in (False, True):
        for messages, tools in islice(chats(5, held_out), 600):
            names[held_out] |= {t["function"]["name"] for t in tools}
            text = json.dumps([messages, tools]).lower()
            assert not any(word in text for word in EXCLUDED_WORDS)
    assert len(names[0]) > 200
    assert not names[0] & names[1]
