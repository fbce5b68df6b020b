"""Escapes the names of control tokens in messages, such as `<|im_end|>` in a user's question.

A tokenizer encodes the name of a control token as the token itself, so a user's text could end the
user's turn. To prevent this, `ControlTokens.escape` replaces each name with a placeholder before
the chat template is rendered. `ControlTokens.encode` then encodes the placeholder as ordinary text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from functools import cached_property

from tokenizers import Tokenizer as BackendTokenizer

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["ControlTokens"]

# The nonce is random, so that a user cannot write a placeholder. It consists of letters and digits,
# since chat templates may change other characters.
_NONCE = f"Zq{secrets.token_hex(8)}"
_PLACEHOLDER = re.compile(f"{_NONCE}x([0-9a-f]*)x")


class ControlTokens:
    """Escapes the names of a tokenizer's control tokens and encodes escaped text.

    Args:
        backend: The fast tokenizer. None: names can be found but not escaped.
        names: Names of the control tokens, such as `<|im_end|>`.
        model: Name of the model, for error messages.
    """

    def __init__(
        self, backend: BackendTokenizer | None, names: frozenset[str], model: str = "The model"
    ) -> None:
        self._backend = backend
        self._model = model
        # Longer names come first: like the tokenizer, the pattern must match the longest name.
        self._names = sorted(names, key=lambda name: (-len(name), name))
        self._pattern = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        self._lock = ForkLock()

    def find(self, text: str) -> str | None:
        """Return the first name of a control token in `text`, or None."""
        found = self._pattern.search(text)
        return found.group() if found else None

    def escape(self, text: str) -> str:
        """Replace each name of a control token with a placeholder.

        Raises:
            CheckpointError: The text contains a name, and the model has no fast tokenizer.
        """
        if self._backend is None and (name := self.find(text)):
            raise CheckpointError(
                f"{self._model} has no fast tokenizer, so the special token {name!r} in the text "
                'cannot be escaped. Set special_tokens_in_text to "allow" or "refuse".'
            )
        return self._pattern.sub(lambda found: _placeholder(found.group()), text)

    @staticmethod
    def has_placeholder(text: str) -> bool:
        """Return whether `text` contains a placeholder made by `escape`."""
        return _NONCE in text

    @staticmethod
    def restore(text: str) -> str:
        """Replace each placeholder with the original name."""
        return _PLACEHOLDER.sub(lambda found: bytes.fromhex(found.group(1)).decode(), text)

    def encode(self, text: str) -> list[int]:
        """Encode text that may contain placeholders, without adding special tokens.

        A name of a control token is encoded as that token. A placeholder is encoded as the ordinary
        text of its name.
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
        """A copy of the tokenizer whose control tokens have random names."""
        assert self._backend is not None  # noqa: S101 - `escape` makes no placeholder without it
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
        tokenizer["post_processor"] = None  # it contains original names of special tokens
        return BackendTokenizer.from_str(json.dumps(tokenizer))

    @cached_property
    def _original_ids(self) -> dict[int, int]:
        """Maps ids of the renamed tokenizer to original ids. Contains only ids that differ."""
        assert self._backend is not None  # noqa: S101 - as in `_renamed_backend`
        old = self._backend.get_vocab()
        new = self._renamed_backend.get_vocab()
        pairs = ((new[renamed], old[name]) for name, renamed in self._renamed.items())
        return {renamed: original for renamed, original in pairs if renamed != original}


def _placeholder(name: str) -> str:
    return f"{_NONCE}x{name.encode().hex()}x"
