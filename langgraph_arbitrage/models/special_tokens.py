"""Control tokens in the text of a message, such as `<|im_end|>` in a user's question.

A tokenizer encodes such text as the control token itself, so a user's text could end the user's
turn. To prevent this, `ControlTokens.escape` replaces the text with a placeholder before the chat
template is rendered, and `ControlTokens.encode` encodes the placeholder as ordinary text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from functools import cached_property

from tokenizers import Tokenizer as BackendTokenizer

from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["ControlTokens"]

# Random per process, so that no text from outside can contain a placeholder. It has only letters
# and digits, since chat templates may change other characters.
_NONCE = f"Zq{secrets.token_hex(8)}"
_PLACEHOLDER = re.compile(f"{_NONCE}x([0-9a-f]*)x")


class ControlTokens:
    """The control tokens of a fast tokenizer, and how to encode text that contains their names.

    Args:
        backend: The tokenizer.
        names: Texts of the control tokens.
    """

    def __init__(self, backend: BackendTokenizer, names: frozenset[str]) -> None:
        self._backend = backend
        # Longer names come first: like the tokenizer, the pattern must match the longest name.
        self._names = sorted(names, key=lambda name: (-len(name), name))
        self._pattern = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        self._lock = ForkLock()

    def find(self, text: str) -> str | None:
        """Return the first control token that the text contains, or None."""
        found = self._pattern.search(text)
        return found.group() if found else None

    def escape(self, text: str) -> str:
        """Replace the text of each control token with a placeholder."""
        return self._pattern.sub(lambda found: _placeholder(found.group()), text)

    @staticmethod
    def has_placeholder(text: str) -> bool:
        """Whether the text contains a placeholder from `escape`."""
        return _NONCE in text

    @staticmethod
    def restore(text: str) -> str:
        """Replace each placeholder with the text that it stands for."""
        return _PLACEHOLDER.sub(lambda found: bytes.fromhex(found.group(1)).decode(), text)

    def encode(self, text: str) -> list[int]:
        """Encode text with placeholders, without adding special tokens.

        The text of a control token becomes that token. A placeholder becomes ordinary text.
        """
        text = self._pattern.sub(lambda found: self._renamed[found.group()], text)
        with self._lock:
            ids = self._renamed_backend.encode(self.restore(text), add_special_tokens=False).ids
        return [self._original_ids.get(token, token) for token in ids]

    @cached_property
    def _renamed(self) -> dict[str, str]:
        return {name: f"{_NONCE}c{i}c" for i, name in enumerate(self._names)}

    @cached_property
    def _renamed_backend(self) -> BackendTokenizer:
        """A copy of the tokenizer, in which the control tokens have names that no text contains."""
        tokenizer = json.loads(self._backend.to_str())
        for token in tokenizer["added_tokens"]:
            token["content"] = self._renamed.get(token["content"], token["content"])
        model = tokenizer["model"]
        vocabulary = model.get("vocab")
        if isinstance(vocabulary, Mapping):
            model["vocab"] = {self._renamed.get(k, k): i for k, i in vocabulary.items()}
        elif isinstance(vocabulary, list):  # pairs of a piece and its score
            model["vocab"] = [[self._renamed.get(k, k), score] for k, score in vocabulary]
        if model.get("unk_token"):
            model["unk_token"] = self._renamed.get(model["unk_token"], model["unk_token"])
        tokenizer["post_processor"] = None  # it refers to special tokens by their old names
        return BackendTokenizer.from_str(json.dumps(tokenizer))

    @cached_property
    def _original_ids(self) -> dict[int, int]:
        """Original id for each id of the renamed tokenizer that differs from it."""
        old = self._backend.get_vocab()
        new = self._renamed_backend.get_vocab()
        pairs = ((new[renamed], old[name]) for name, renamed in self._renamed.items())
        return {renamed: original for renamed, original in pairs if renamed != original}


def _placeholder(name: str) -> str:
    return f"{_NONCE}x{name.encode().hex()}x"
