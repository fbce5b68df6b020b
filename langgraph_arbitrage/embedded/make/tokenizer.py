"""The tokenizer that all embedded models share: byte-level BPE with single digits."""

import json
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

# One digit a token; an operator with its spaces; a word, with the space that a digit follows.
PIECES = r"\p{N}| [+\-*/%=] | ?\p{L}+(?: (?=\p{N}))?| ?[^\s\p{L}\p{N}]+(?: (?=\p{N}))?|\s+"


def train_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on ``texts`` to ``size`` tokens, special and added ones included."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(PIECES), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    tokens = [AddedToken(t, normalized=False) for t in (*SPECIAL, *ADDED)]
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=tokens,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([t.replace("\n\n", " ") for t in texts], trainer)
    # The trainer marks all of them as special: the added ones would vanish from decoded text.
    written = json.loads(tokenizer.to_str())
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
