"""Training batches: copying texts, problems and chats, packed into rows of equal length."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.chats import Chat, chats
from langgraph_arbitrage.embedded.make.copying import IGNORED, LabelledIds, copying_texts
from langgraph_arbitrage.embedded.problems import Problem, training_problems

CHAT_EVERY = 4
"""One in this number of batches holds chats and tool use."""

PROBLEM_ROWS = (11, 288)
CHAT_ROWS = (4, 768)
"""Number of rows in a batch, and number of tokens in a row. Batches of problems and batches of
chats have about the same number of tokens."""

EASY_COPIES = 40
"""Number of easy copying texts per batch of the copying phase. The phase starts with all easy
texts."""

POOL_SIZE = 48
"""Number of waiting texts, from which the next text of a row is chosen."""


@dataclass(frozen=True)
class Batch:
    """Packed rows of several texts. A token attends only to tokens of its own text."""

    ids: Tensor  # [B, S]
    labels: Tensor  # [B, S], the next token or IGNORED
    positions: Tensor  # [B, S], position within the text
    texts: Tensor  # [B, S], index of the text within its row, -1 for padding

    def mask(self) -> Tensor:
        """The additive attention mask ``[B, 1, S, S]``, in bf16."""
        same = self.texts[:, None, :, None] == self.texts[:, None, None, :]
        visible = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
        return torch.zeros(visible.shape, dtype=torch.bfloat16).masked_fill(~visible, -1e4)


def problem_chat(problem: Problem) -> Chat:
    """A chat with one turn: a problem and its solution."""
    return [
        {"role": "user", "content": problem.question},
        {"role": "assistant", "content": problem.solution},
    ], []


def tokenize(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> LabelledIds:
    """Tokenize a chat. Only the assistant's tokens, including the end token, get labels."""
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
    """Return the token ids of messages in the chat template."""
    text = tokenizer.apply_chat_template(
        messages, tools=tools or None, add_generation_prompt=prompt, tokenize=False
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def pack(texts: Iterator[LabelledIds], rows: int, length: int) -> Iterator[Batch]:
    """Pack texts into batches. Texts longer than a row are dropped."""
    pool: list[LabelledIds] = []
    while True:
        shape = (rows, length + 1)
        ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
        positions, indices = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for row in range(rows):
            start = index = 0
            while True:
                while len(pool) < POOL_SIZE:
                    text = next(texts)
                    if len(text[0]) <= length + 1:
                        pool.append(text)
                fitting = [i for i, t in enumerate(pool) if start + len(t[0]) <= length + 1]
                if not fitting:
                    break
                # A row begins with the oldest text and continues with the longest that fits.
                choice = 0 if start == 0 else max(fitting, key=lambda i: len(pool[i][0]))
                text_ids, text_labels = pool.pop(choice)
                end = start + len(text_ids)
                ids[row, start:end] = torch.tensor(text_ids)
                labels[row, start:end] = torch.tensor(text_labels)
                positions[row, start:end] = torch.arange(end - start)
                indices[row, start:end] = index
                start, index = end, index + 1
        yield Batch(ids[:, :-1], labels[:, 1:], positions[:, :-1], indices[:, :-1])


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, copying: int) -> Iterator[Batch]:
    """Generate the training batches of a seed. The first ``copying`` batches are copying texts.

    The same arguments yield the same batches.
    """
    yield from islice(
        pack(copying_texts(seed, len(tokenizer), EASY_COPIES * copying), *PROBLEM_ROWS), copying
    )
    rng = random.Random(f"turns {seed}")
    problem_stream, chat_stream = training_problems(seed), chats(seed)

    def multi_turn_chat() -> Chat:
        turns = [problem_chat(next(problem_stream)) if rng.random() < 0.7 else next(chat_stream)
                 for _ in range(rng.choice((2, 3)))]  # fmt: skip
        plain = [m for messages, tools in turns if not tools for m in messages]
        return [m for i, m in enumerate(plain) if i == 0 or m["role"] != "system"], []

    def chat() -> Chat:
        return multi_turn_chat() if rng.random() < 0.06 else next(chat_stream)

    def texts(make: Callable[[], Chat]) -> Iterator[LabelledIds]:
        while True:
            yield tokenize(tokenizer, make())

    problem_batches = pack(texts(lambda: problem_chat(next(problem_stream))), *PROBLEM_ROWS)
    chat_batches = pack(texts(chat), *CHAT_ROWS)
    step = 0
    while True:
        step += 1
        yield next(chat_batches if step % CHAT_EVERY == 0 else problem_batches)
