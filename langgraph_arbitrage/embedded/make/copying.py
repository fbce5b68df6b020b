"""Sequences of repeated random tokens, on which a model is trained before any text.

To copy a name or a number, a model needs an induction circuit: two attention layers that find an
earlier occurrence of the last token and predict the token that followed it. The circuit forms
within a few hundred batches of pure copying. It hardly forms on problems and chats, where few
tokens depend on it.
"""

import random
from collections.abc import Iterator
from itertools import count

from langgraph_arbitrage.embedded.make.tokenizer import ADDED, SPECIAL

FIRST = len(SPECIAL) + len(ADDED)
"""Id of the first token that is neither a special nor an added token."""

SOURCE_LENGTH = (4, 40)
"""Minimum and maximum length of an easy source in tokens. Other sources are up to 5 times as
long."""

MAX_SPAN = 40
"""Maximum length of the copied part of a source that is not easy, in tokens."""

IGNORED = -100
"""Label of tokens that do not contribute to the loss."""

LabelledIds = tuple[list[int], list[int]]
"""Token ids and labels of a text."""


def copying_texts(seed: int, vocabulary: int, easy: int) -> Iterator[LabelledIds]:
    """Generate an endless stream of random sources, each followed by a copy.

    Args:
        seed: Seed; the same seed yields the same texts.
        vocabulary: Size of the vocabulary from which tokens are drawn.
        easy: Number of easy texts at the beginning, with short sources that are copied completely.
            All later texts copy a part of a source that may be longer.

    Yields:
        Token ids, with labels for the copy. The first token of a partial copy has no label,
        because it cannot be predicted.
    """
    rng = random.Random(f"copies {seed}")
    user, assistant, end = (SPECIAL.index(t) for t in ("<|user|>", "<|assistant|>", "<eos>"))
    for number in count():
        complete = number < easy
        length = rng.randint(*SOURCE_LENGTH)
        if not complete:
            length *= rng.randint(1, 5)
        source = [rng.randrange(FIRST, vocabulary) for _ in range(length)]
        start = 0 if complete else rng.randrange(length - 2)
        span = source[start:] if complete else source[start : start + rng.randint(3, MAX_SPAN)]
        ids = [user, *source, assistant, *span, end]
        labels = [IGNORED] * (length + 2) + ids[length + 2 :]
        yield ids, labels if complete else [*labels[: length + 2], IGNORED, *span[1:], IGNORED]
