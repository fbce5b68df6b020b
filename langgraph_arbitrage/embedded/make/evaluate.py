"""Measures a written checkpoint through plain transformers: accuracy, chats, time a token."""

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
from langgraph_arbitrage.embedded.make.chats import Chat, Message, Writer
from langgraph_arbitrage.embedded.make.data import problem_chat, render
from langgraph_arbitrage.embedded.problems import LEVELS, problems

SEED = 2026
"""Seed of the problems and chats that the model cards report on."""

BATCH = 50
MAX_TOKENS = 320
CHATS = 100
"""Chats of each kind."""

CALL = re.compile(r"<tool_call>(.*?)</tool_call>")


def load(folder: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """Load a checkpoint in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    return model, tokenizer


@torch.no_grad()
def write(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]) -> list[str]:
    """Continue prompts greedily with ``generate``; the answers come without their end token."""
    answers: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in some]}, return_tensors="pt")
        out = model.generate(**batch, max_new_tokens=MAX_TOKENS, do_sample=False)
        for i, ids in zip(some, out[:, batch["input_ids"].shape[1] :], strict=True):
            answers[i] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return [answers[i] for i in range(len(prompts))]


def evaluate(folder: Path, count: int) -> dict[str, Any]:
    """Measure accuracy on ``count`` held-out problems, and on held-out chats of each kind.

    Returns:
        ``n`` and ``accuracy`` for all problems, those without and with never-learned steps
        (``easy``, ``hard``) and each level (without those steps); the share of right turns for
        each kind of chat.
    """
    model, tokenizer = load(folder)
    some = list(problems(count, SEED))
    texts = write(
        model, tokenizer, [render(tokenizer, problem_chat(p)[0][:1], prompt=True) for p in some]
    )
    right = [check_answer(p, text) for p, text in zip(some, texts, strict=True)]

    def share(kept: list[bool]) -> dict[str, float]:
        chosen = [r for r, k in zip(right, kept, strict=True) if k]
        return {"n": len(chosen), "accuracy": round(sum(chosen) / max(1, len(chosen)), 4)}

    return {
        "all": share([True] * len(some)),
        "easy": share([not p.hard for p in some]),
        "hard": share([p.hard for p in some]),
        "levels": {str(x): share([p.level == x and not p.hard for p in some]) for x in LEVELS},
        "chats": evaluate_chats(model, tokenizer),
        "parameters": model.num_parameters(),
        "milliseconds": round(milliseconds_a_token(model), 3),
    }


def evaluate_chats(model: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Measure the share of turns written exactly, on held-out names, for each kind of chat."""
    writer = Writer(random.Random(f"evaluation {SEED}"), held_out=True)
    kinds: dict[str, Callable[[], Chat]] = {
        "greeting": writer.greeting,
        "repeat": writer.repeat,
        "memory": writer.memory,
        "tool call": writer.tool_use,
        "tool answer": writer.tool_use,
        "json": writer.json_answer,
        "report of a result": writer.report,
    }
    shares = {}
    for kind, make in kinds.items():
        prompts: list[list[int]] = []
        wanted: list[Message] = []
        while len(prompts) < CHATS:
            messages, tools = make()
            turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
            if kind.startswith("tool"):
                calls = kind == "tool call"
                turns = [i for i in turns if ("tool_calls" in messages[i]) == calls
                         and (calls or messages[i - 1]["role"] == "tool")]  # fmt: skip
            if turns:
                prompts.append(render(tokenizer, messages[: turns[-1]], tools, prompt=True))
                wanted.append(messages[turns[-1]])
        answers = write(model, tokenizer, prompts)
        right = [_matches(a, m) for a, m in zip(answers, wanted, strict=True)]
        shares[kind] = round(sum(right) / len(right), 3)
    return shares


def _matches(answer: str, wanted: Message) -> bool:
    calls = [c["function"] for c in wanted.get("tool_calls", ())]
    if not calls:
        return bool(answer == wanted["content"])
    try:
        return bool([json.loads(call) for call in CALL.findall(answer)] == calls)
    except json.JSONDecodeError:
        return False


@torch.no_grad()
def milliseconds_a_token(model: Any, tokens: int = 50, rounds: int = 12) -> float:
    """Time cached decoding: batch 1, eager, fp32; the least of several rounds."""
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
