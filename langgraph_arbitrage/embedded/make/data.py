"""The training text: problems and chats as token ids, packed into rows of one length."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.chats import Chat, chats
from langgraph_arbitrage.embedded.make.copying import IGNORED, Text, copies
from langgraph_arbitrage.embedded.problems import Problem, training_problems

CHAT_EVERY = 4
"""Every so many batches one holds chats and tool use (a quarter of the tokens)."""

PROBLEM_ROWS = (11, 288)
CHAT_ROWS = (4, 768)
"""Rows and length of a batch: the same number of tokens for both."""

EASY_COPIES = 40
"""Of the copying texts, so many a batch (more than half) are of the easy kind, which come first."""

POOL = 48
"""Texts at hand when a row is filled."""


@dataclass(frozen=True)
class Batch:
    """Packed rows: each text has its own positions and sees only itself."""

    ids: Tensor  # [B, S]
    labels: Tensor  # [B, S], the next token or IGNORED
    positions: Tensor  # [B, S]
    texts: Tensor  # [B, S], number of the text within its row

    def mask(self) -> Tensor:
        """Return what to add to the attention scores ``[B, 1, S, S]``, in bf16."""
        same = self.texts[:, None, :, None] == self.texts[:, None, None, :]
        seen = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
        return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, -1e4)


def problem_chat(problem: Problem) -> Chat:
    """Put a problem and its solution as one turn."""
    return [
        {"role": "user", "content": problem.question},
        {"role": "assistant", "content": problem.solution},
    ], []


def tokenize(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> Text:
    """Render a chat; only what the assistant writes, end token included, is trained."""
    messages, tools = chat
    ids: list[int] = []
    labels: list[int] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:i], tools, prompt=True)
        labels += [IGNORED] * (len(prompt) - len(ids))
        ids = render(tokenizer, messages[: i + 1], tools)
        labels += ids[len(prompt) :]
    return ids, labels


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, Any]],
    tools: list[Any] | None = None,
    prompt: bool = False,
) -> list[int]:
    """Apply the chat template."""
    text = tokenizer.apply_chat_template(
        messages, tools=tools or None, add_generation_prompt=prompt, tokenize=False
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def pack(texts: Iterator[Text], rows: int, length: int) -> Iterator[Batch]:
    """Pack texts into batches; one that is too long for a row is left out."""
    pool: list[Text] = []
    while True:
        shape = (rows, length + 1)
        ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
        positions, numbers = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for row in range(rows):
            at = number = 0
            while True:
                while len(pool) < POOL:
                    text = next(texts)
                    if len(text[0]) <= length + 1:
                        pool.append(text)
                fitting = [i for i, t in enumerate(pool) if at + len(t[0]) <= length + 1]
                if not fitting:
                    break
                # The first text of a row is the oldest, then the longest that still fits.
                one = 0 if at == 0 else max(fitting, key=lambda i: len(pool[i][0]))
                some_ids, some_labels = pool.pop(one)
                end = at + len(some_ids)
                ids[row, at:end] = torch.tensor(some_ids)
                labels[row, at:end] = torch.tensor(some_labels)
                positions[row, at:end] = torch.arange(end - at)
                numbers[row, at:end] = number
                at, number = end, number + 1
        yield Batch(ids[:, :-1], labels[:, 1:], positions[:, :-1], numbers[:, :-1])


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, copying: int) -> Iterator[Batch]:
    """Yield the training batches of a seed, always the same: first ``copying`` ones of copies."""
    yield from islice(
        pack(copies(seed, len(tokenizer), EASY_COPIES * copying), *PROBLEM_ROWS), copying
    )
    rng = random.Random(f"turns {seed}")
    some_problems, some_chats = training_problems(seed), chats(seed)

    def several_turns() -> Chat:
        turns = [problem_chat(next(some_problems)) if rng.random() < 0.7 else next(some_chats)
                 for _ in range(rng.choice((2, 3)))]  # fmt: skip
        plain = [m for messages, tools in turns if not tools for m in messages]
        return [m for i, m in enumerate(plain) if i == 0 or m["role"] != "system"], []

    def chat() -> Chat:
        return several_turns() if rng.random() < 0.06 else next(some_chats)

    def texts(make: Callable[[], Chat]) -> Iterator[Text]:
        while True:
            yield tokenize(tokenizer, make())

    of_problems = pack(texts(lambda: problem_chat(next(some_problems))), *PROBLEM_ROWS)
    of_chats = pack(texts(chat), *CHAT_ROWS)
    step = 0
    while True:
        step += 1
        yield next(of_chats if step % CHAT_EVERY == 0 else of_problems)
