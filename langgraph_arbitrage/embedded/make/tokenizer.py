"""The tokenizer that all embedded models share: byte-level BPE with single digits.

A word is cut into the same tokens wherever it stands: merges within words come first, and only
then do the most frequent whole words take in the space before them (or after, before a digit).
Else ``rome`` after a space and ``rome`` after a quote would have nothing in common, and small
models could not copy the one into the other.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
"""Ids 0 to 6; skipped when a text is decoded without special tokens."""

ADDED = (
    "\n\n",
    "Model 0: ",
    "Model 1: ",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
)
"""One token each, and part of the text: ids from 7."""

CONTEXT = 4096
"""Tokens that a model can be given (``max_position_embeddings``)."""

SPACED_WORDS = 256
"""Tokens that are a whole word with a space."""

SPACE = "Ġ"
"""A space, as byte-level BPE writes it."""

# One digit a token; an operator with its spaces; a word; marks; other white space.
APART = r"\p{N}| [+\-*/%=] |\p{L}+|[^\s\p{L}\p{N}]+|\s+"
# The same, a word and marks with the space before them, and with the one that a digit follows.
PIECES = r"\p{N}| [+\-*/%=] | ?\p{L}+(?: (?=\p{N}))?| ?[^\s\p{L}\p{N}]+(?: (?=\p{N}))?|\s+"


def train_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on ``texts`` to ``size`` tokens, special and added ones included."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = _cut(APART)
    tokenizer.decoder = ByteLevelDecoder()
    tokens = [AddedToken(t, normalized=False) for t in (*SPECIAL, *ADDED)]
    trainer = BpeTrainer(
        vocab_size=size - SPACED_WORDS,
        special_tokens=tokens,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [t.replace("\n\n", " ") for t in texts]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = _cut(PIECES)
    written = json.loads(tokenizer.to_str())
    vocabulary, merges = written["model"]["vocab"], written["model"]["merges"]
    for left, right in _space_merges(tokenizer, texts):
        merges.append([left, right])
        vocabulary[left + right] = len(vocabulary)
    # The trainer marks all of them as special: the added ones would vanish from decoded text.
    for token in written["added_tokens"]:
        token["special"] = token["content"] in SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=(Path(__file__).parent / "chat_template.jinja").read_text(),
    )


def _cut(pattern: str) -> Sequence:
    return Sequence(
        [
            Split(Regex(pattern), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _space_merges(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[str, str]]:
    """Find the most frequent whole words (or marks) that stand beside a space."""
    counts = Counter(
        piece
        for text in texts
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)
        if piece.startswith(SPACE) or piece.endswith(SPACE)
    )
    pieces = [
        ([t.value for t in tokenizer.model.tokenize(piece)], n) for piece, n in counts.items()
    ]
    merges: list[tuple[str, str]] = []
    while len(merges) < SPACED_WORDS:
        pairs: Counter[tuple[str, str]] = Counter()
        for piece, n in pieces:
            if len([t for t in piece if t != SPACE]) == 1:  # a whole word
                for pair in pairwise(piece):
                    pairs[pair] += n
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for piece, _ in pieces:
            for i in range(len(piece) - 1):
                if (piece[i], *piece[i + 1 : i + 2]) == best:
                    piece[i : i + 2] = ["".join(best)]
    return merges
