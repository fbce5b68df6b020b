"""Random tokens written again: what a model practises before it reads any text.

Copying a name or a number needs two attention layers that find where the last token stood before
and what followed it there. They form within some hundred batches of nothing else, and hardly at
all within as many batches of problems and chats, where few tokens depend on them.
"""

import random
from collections.abc import Iterator
from itertools import count

from langgraph_arbitrage.embedded.make.tokenizer import ADDED, SPECIAL

FIRST = len(SPECIAL) + len(ADDED)
"""Id of the first token that is neither special nor added."""

WHOLE = (4, 40)
"""Tokens of a text that is written again as a whole: the easier beginning."""

SPAN = 40
"""Later: most tokens of the part that is written again."""

IGNORED = -100
"""Label of a token whose prediction is not trained."""

Text = tuple[list[int], list[int]]
"""Token ids and labels."""


def copies(seed: int, vocabulary: int, easy: int) -> Iterator[Text]:
    """Iterate without end over texts of random tokens that are written again.

    Args:
        seed: The same seed gives the same texts.
        vocabulary: Tokens are drawn from below this.
        easy: So many texts are short and written again as a whole; from the others, long ones
            too, a part is taken.

    Yields:
        Token ids, and labels of what is written again; of a part not its first token, which
        nothing tells.
    """
    rng = random.Random(f"copies {seed}")
    user, assistant, end = (SPECIAL.index(t) for t in ("<|user|>", "<|assistant|>", "<eos>"))
    for number in count():
        whole = number < easy
        length = rng.randint(*WHOLE) if whole else rng.randint(*WHOLE) * rng.randint(1, 5)
        source = [rng.randrange(FIRST, vocabulary) for _ in range(length)]
        start = 0 if whole else rng.randrange(length - 2)
        span = source[start:] if whole else source[start : start + rng.randint(3, SPAN)]
        ids = [user, *source, assistant, *span, end]
        told = [IGNORED] * (length + 2) + ids[length + 2 :]
        yield ids, told if whole else [*told[: length + 2], IGNORED, *span[1:], IGNORED]
