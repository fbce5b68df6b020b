"""Evaluate a checkpoint with transformers: accuracy on problems and chats, time per token."""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.checker import check_answer
from langgraph_arbitrage.embedded.make.chats import Chat, ChatGenerator, Message
from langgraph_arbitrage.embedded.make.data import problem_chat, render
from langgraph_arbitrage.embedded.problems import LEVELS, problems

SEED = 2026
"""Seed of the problems and chats in the model cards."""

BATCH_SIZE = 50
MAX_TOKENS = 320
CHATS = 100
"""Number of chats of each kind."""

CALL = re.compile(r"<tool_call>(.*?)</tool_call>")


def load(folder: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """Load the model, in fp32, and the tokenizer of a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    return model, tokenizer


@torch.no_grad()
def generate(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]) -> list[str]:
    """Generate greedy answers to prompts, without special tokens."""
    answers: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), BATCH_SIZE):
        chunk = order[start : start + BATCH_SIZE]
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in chunk]}, return_tensors="pt")
        out = model.generate(**batch, max_new_tokens=MAX_TOKENS, do_sample=False)
        for i, ids in zip(chunk, out[:, batch["input_ids"].shape[1] :], strict=True):
            answers[i] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return [answers[i] for i in range(len(prompts))]


def evaluate(folder: Path, count: int) -> dict[str, Any]:
    """Evaluate a checkpoint on ``count`` held-out problems and on held-out chats of each kind.

    Returns:
        ``n`` and ``accuracy`` for all problems, for those without and with hard steps (``easy``,
        ``hard``) and for each level (without hard problems); the share of right turns for each kind
        of chat; the number of parameters; and the milliseconds per token.
    """
    model, tokenizer = load(folder)
    tested = list(problems(count, SEED))
    texts = generate(
        model, tokenizer, [render(tokenizer, problem_chat(p)[0][:1], prompt=True) for p in tested]
    )
    right = [check_answer(p, text) for p, text in zip(tested, texts, strict=True)]

    def accuracy(included: list[bool]) -> dict[str, float]:
        subset = [r for r, i in zip(right, included, strict=True) if i]
        return {"n": len(subset), "accuracy": round(sum(subset) / max(1, len(subset)), 4)}

    return {
        "all": accuracy([True] * len(tested)),
        "easy": accuracy([not p.hard for p in tested]),
        "hard": accuracy([p.hard for p in tested]),
        "levels": {str(x): accuracy([p.level == x and not p.hard for p in tested]) for x in LEVELS},
        "chats": evaluate_chats(model, tokenizer),
        "parameters": model.num_parameters(),
        "milliseconds": round(milliseconds_per_token(model), 3),
    }


def evaluate_chats(model: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Measure the share of exactly right turns for each kind of chat, with held-out names."""
    generator = ChatGenerator(random.Random(f"evaluation {SEED}"), held_out=True)
    kinds: dict[str, Callable[[], Chat]] = {
        "greeting": generator.greeting,
        "repeat": generator.repeat,
        "memory": generator.memory,
        "tool call": generator.tool_use,
        "tool answer": generator.tool_use,
        "json": generator.json_answer,
        "report of a result": generator.report,
    }
    shares = {}
    for kind, make in kinds.items():
        prompts: list[list[int]] = []
        expected: list[Message] = []
        while len(prompts) < CHATS:
            messages, tools = make()
            turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
            if kind.startswith("tool"):
                calls = kind == "tool call"
                turns = [i for i in turns if ("tool_calls" in messages[i]) == calls
                         and (calls or messages[i - 1]["role"] == "tool")]  # fmt: skip
            if turns:
                prompts.append(render(tokenizer, messages[: turns[-1]], tools, prompt=True))
                expected.append(messages[turns[-1]])
        answers = generate(model, tokenizer, prompts)
        right = [_matches(a, m) for a, m in zip(answers, expected, strict=True)]
        shares[kind] = round(sum(right) / len(right), 3)
    return shares


def _matches(answer: str, expected: Message) -> bool:
    calls = [c["function"] for c in expected.get("tool_calls", ())]
    if not calls:
        return bool(answer == expected["content"])
    try:
        return bool([json.loads(call) for call in CALL.findall(answer)] == calls)
    except json.JSONDecodeError:
        return False


@torch.no_grad()
def milliseconds_per_token(model: Any, tokens: int = 50, rounds: int = 12) -> float:
    """Measure the time per token of cached decoding at batch size 1, eager, in fp32.

    Returns:
        Milliseconds, as the minimum over several rounds.
    """
    best = float("inf")
    for _ in range(rounds):
        cache = DynamicCache(config=model.config)
        ids = torch.full((1, 50), 100)
        model(ids, past_key_values=cache)
        started = time.perf_counter()
        for _ in range(tokens):
            ids = model(ids[:, -1:], past_key_values=cache).logits.argmax(-1)
        best = min(best, (time.perf_counter() - started) / tokens * 1e3)
    return best
