"""Train one model on one thread, seeded and resumable."""

import json
import random
import time
from collections.abc import Iterable
from itertools import count, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.chats import Chat, ChatGenerator
from langgraph_arbitrage.embedded.make.copying import IGNORED
from langgraph_arbitrage.embedded.make.data import (
    CHAT_ROWS,
    PROBLEM_ROWS,
    Batch,
    batches,
    pack,
    problem_chat,
    tokenize,
)
from langgraph_arbitrage.embedded.make.model import (
    STACKS,
    Weights,
    config,
    forward,
    grow,
    initial,
    spread,
)
from langgraph_arbitrage.embedded.make.optimizer import Optimizer
from langgraph_arbitrage.embedded.make.recipes import Recipe
from langgraph_arbitrage.embedded.problems import problems

SAVE_EVERY = 100
EVALUATE_EVERY = 300
DEV_TEXTS = 192
"""Minimum number of texts in each development set."""

DEV_SEED = 999
"""Seed of the development sets, which differ from the problems and chats of the model card."""


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, runs: Path) -> Weights:
    """Start or resume the training of a model in ``runs``; returns the weights."""
    torch.manual_seed(recipe.seed)
    folder = runs / recipe.role
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    cfg = config(recipe.width, recipe.layers_at(0), recipe.heads, len(tokenizer))
    weights, step, tokens, seconds = initial(cfg, recipe.seed), 0, 0, 0.0
    state = torch.load(checkpoint) if checkpoint.exists() else None
    if state is not None:
        weights, step = state["weights"], state["step"]
        tokens, seconds = state["tokens"], state["seconds"]
    optimizer = _optimizer(weights)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    dev, dev_calls = _dev_problems(tokenizer), _dev_calls(tokenizer)
    started = time.monotonic() - seconds
    losses: list[float] = []
    for batch in islice(batches(tokenizer, recipe.seed, recipe.copying), step, recipe.steps):
        if recipe.layers_at(step) > len(weights["q"]):
            weights, optimizer = _grow(weights, optimizer, recipe)
        loss = _loss(weights, batch, recipe.heads)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        optimizer.step(dict(zip(weights, gradients, strict=True)), recipe.lr_at(step))
        step, tokens = step + 1, tokens + batch.ids.numel()
        losses.append(loss.item())
        finished = step == recipe.steps
        if step % SAVE_EVERY == 0 or finished:
            seconds = time.monotonic() - started
            row: dict[str, float] = {
                "step": step, "tokens": tokens, "seconds": round(seconds),
                "loss": round(sum(losses) / len(losses), 4), "lr": round(recipe.lr_at(step - 1), 6),
            }  # fmt: skip
            losses = []
            if step % EVALUATE_EVERY == 0 or finished:
                row["dev_accuracy"] = round(_accuracy(weights, dev, recipe.heads), 4)
                row["dev_calls"] = round(_accuracy(weights, dev_calls, recipe.heads), 4)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(recipe.role, row, flush=True)
            part = checkpoint.with_suffix(".part")
            torch.save({"weights": weights, "optimizer": optimizer.state_dict(), "step": step,
                        "tokens": tokens, "seconds": seconds}, part)  # fmt: skip
            part.replace(checkpoint)
    return weights


def _optimizer(weights: Weights) -> Optimizer:
    for weight in weights.values():
        weight.requires_grad_(True)
    return Optimizer(weights)


@torch.no_grad()
def _grow(weights: Weights, old: Optimizer, recipe: Recipe) -> tuple[Weights, Optimizer]:
    """Add layers. The trained ones keep their optimizer moments, so training continues smoothly."""
    grown = grow({k: v.detach().clone() for k, v in weights.items()}, recipe.layers, recipe.seed)
    optimizer = _optimizer(grown)
    optimizer.steps = old.steps
    for new_moments, old_moments in ((optimizer.first, old.first), (optimizer.second, old.second)):
        for name, moment in old_moments.items():
            stacked = name in STACKS
            new_moments[name] = spread(moment, new_moments[name]) if stacked else moment
    return grown, optimizer


def _loss(weights: Weights, batch: Batch, heads: int) -> Tensor:
    w = {name: weight.bfloat16() for name, weight in weights.items()}
    hidden = forward(w, batch.ids, batch.positions, batch.mask(), heads).flatten(0, 1)
    labels = batch.labels.flatten()
    labelled = (labels != IGNORED).nonzero().squeeze(1)
    return F.cross_entropy(F.linear(hidden[labelled], w["embed"]).float(), labels[labelled])


def _dev_problems(tokenizer: PreTrainedTokenizerFast) -> list[Batch]:
    easy = (problem_chat(p) for p in problems(3 * DEV_TEXTS, DEV_SEED) if not p.hard)
    return _dev_batches(tokenizer, easy, *PROBLEM_ROWS)


def _dev_calls(tokenizer: PreTrainedTokenizerFast) -> list[Batch]:
    generator = ChatGenerator(random.Random(f"dev {DEV_SEED}"), held_out=True)
    return _dev_batches(tokenizer, (generator.tool_use() for _ in count()), *CHAT_ROWS)


def _dev_batches(
    tokenizer: PreTrainedTokenizerFast, chats: Iterable[Chat], rows: int, length: int
) -> list[Batch]:
    """Pack chats into batches until these contain at least ``DEV_TEXTS`` texts."""
    packed, texts = [], 0
    for batch in pack((tokenize(tokenizer, chat) for chat in chats), rows, length):
        packed.append(batch)
        texts += int((batch.texts.max(1).values + 1).sum())
        if texts >= DEV_TEXTS:
            break
    return packed


@torch.no_grad()
def _accuracy(weights: Weights, dev: list[Batch], heads: int) -> float:
    """Share of texts in which every labelled token is the argmax, as in greedy decoding."""
    right = tested = 0
    for batch in dev:
        w = {name: weight.bfloat16() for name, weight in weights.items()}
        hidden = forward(w, batch.ids, batch.positions, batch.mask(), heads)
        wrong = (F.linear(hidden, w["embed"]).argmax(-1) != batch.labels) & (
            batch.labels != IGNORED
        )
        for row in range(wrong.shape[0]):
            for text in range(int(batch.texts[row].max()) + 1):
                of_text = batch.texts[row] == text
                tested += 1
                right += not bool(wrong[row][of_text].any())
    return right / tested
