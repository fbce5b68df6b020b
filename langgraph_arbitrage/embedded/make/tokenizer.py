"""The tokenizer of all embedded models: byte-level BPE with single digits.

A word has the same tokens in every position. Merges within words are learned first; afterwards only
the most frequent whole words are merged with the space before them (or after them, if a digit
follows). Otherwise ``rome`` after a space and ``rome`` after a quote would share no tokens, and
small models could not copy one into the other.
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
"""Special tokens with ids 0 to 6, skipped when decoding without special tokens."""

ADDED = (
    "\n\n",
    "Model 0: ",
    "Model 1: ",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
)
"""Strings that are a single token each, with ids from 7. They are part of the decoded text."""

CONTEXT = 4096
"""Context length of the models in tokens (``max_position_embeddings``)."""

SPACED_WORDS = 256
"""Number of tokens that are a whole word with a space."""

SPACE = "Ġ"
"""Byte-level BPE's symbol for a space."""

# A digit, an operator with its spaces, a word, punctuation, other whitespace.
WORDS = r"\p{N}| [+\-*/%=] |\p{L}+|[^\s\p{L}\p{N}]+|\s+"
# The same pieces, but a word or punctuation includes a preceding space, and also a following space
# if a digit comes next.
SPACED_PIECES = r"\p{N}| [+\-*/%=] | ?\p{L}+(?: (?=\p{N}))?| ?[^\s\p{L}\p{N}]+(?: (?=\p{N}))?|\s+"


def train_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on ``texts``; ``size`` includes special and added tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(WORDS)
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
    tokenizer.pre_tokenizer = _pre_tokenizer(SPACED_PIECES)
    data = json.loads(tokenizer.to_str())
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    for left, right in _space_merges(tokenizer, texts):
        merges.append([left, right])
        vocabulary[left + right] = len(vocabulary)
    # The trainer marks all tokens in this list as special. Unmark those that must stay in decoded
    # text.
    for token in data["added_tokens"]:
        token["special"] = token["content"] in SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=(Path(__file__).parent / "chat_template.jinja").read_text(),
    )


def _pre_tokenizer(pattern: str) -> Sequence:
    return Sequence(
        [
            Split(Regex(pattern), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _space_merges(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[str, str]]:
    """Compute merges of the most frequent whole words (or punctuation) with a space."""
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
