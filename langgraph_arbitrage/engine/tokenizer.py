"""Text to token ids and back, by each model's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.errors import ChatTemplateError, CheckpointError
from langgraph_arbitrage.forks import ForkLock

__all__ = ["Tokenizer", "load_tokenizer"]

AS_THE_FILE_SAYS = ("TokenizersBackend", "PreTrainedTokenizerFast")
_ANCHOR = "\n"  # text before a continuation, so that no tokenizer takes it for a sentence's start


class Tokenizer:
    """A checkpoint's tokenizer; safe to share between threads."""

    def __init__(self, hf: PreTrainedTokenizerBase, name: str, chat_template: str | None) -> None:
        self.hf = hf
        self.name = name
        self.chat_template = hf.chat_template or chat_template
        # A fast tokenizer raises "Already borrowed" when two threads encode at a time.
        self._lock = ForkLock()

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Token ids of a conversation, up to where the assistant's answer begins.

        Raises:
            ChatTemplateError: There is no template, or it refuses these messages.
        """
        if not self.chat_template:
            raise ChatTemplateError(
                f"{self.name} has no chat template. Give one: `chat_template=` with a Jinja "
                "template, or use an instruction-tuned checkpoint, which brings its own."
            )
        try:
            with self._lock:
                encoded = self.hf.apply_chat_template(
                    [dict(m) for m in messages],
                    chat_template=self.chat_template,
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    **options,
                )
        except TemplateError as error:
            raise ChatTemplateError(
                f"the chat template of {self.name} cannot render this conversation "
                f"(roles {[m.get('role') for m in messages]}): {error}"
            ) from error
        ids: list[int] = encoded["input_ids"]  # type: ignore[index, assignment, call-overload]
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as a continuation, without special tokens around it."""
        with self._lock:
            anchored: list[int] = self.hf.encode(_ANCHOR + text, add_special_tokens=False)
            anchor: list[int] = self.hf.encode(_ANCHOR, add_special_tokens=False)
            if anchored[: len(anchor)] == anchor and not text.startswith(_ANCHOR):
                return anchored[len(anchor) :]
            bare: list[int] = self.hf.encode(text, add_special_tokens=False)
        return bare

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        if self.hf.is_fast:  # transformers looks at the type of each id first: 5 times the time
            text: str = self.hf.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
            return text
        return self.hf.decode(  # type: ignore[return-value]
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add to the text of `before`.

        Decoded together: some tokenizers drop a space at the start of a text, and a character
        may be spread over tokens.
        """
        if not before:
            return self.decode(ids)
        return self.decode([*before, *ids])[len(self.decode(before)) :]

    def token_text(self, token: int) -> str:
        """Text of one token in the middle of a text."""
        return self.decode_after(self._anchor_ids, [token])

    @cached_property
    def start_ids(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text, such as BOS."""
        with self._lock:
            bare: list[int] = self.hf.encode("a", add_special_tokens=False)
            whole: list[int] = self.hf.encode("a", add_special_tokens=True)
        for i in range(len(whole) - len(bare) + 1):
            if whole[i : i + len(bare)] == bare:
                return whole[:i]
        return []

    @cached_property
    def _anchor_ids(self) -> list[int]:
        with self._lock:
            ids: list[int] = self.hf.encode("a", add_special_tokens=False)
        return ids

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self.hf.get_vocab()

    def shares_vocabulary(self, other: Tokenizer) -> bool:
        """Whether token ids of one mean the same text to the other."""
        return self is other or self._vocabulary == other._vocabulary


@lru_cache(maxsize=64)
def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """The tokenizer of a checkpoint, loaded once a process.

    Raises:
        CheckpointError: The checkpoint has no loadable tokenizer.
    """
    try:
        declared = get_tokenizer_config(spec.path, revision=spec.revision).get("tokenizer_class")
        # The automatic choice goes by the architecture for some (Qwen2), and cuts text otherwise
        # than a checkpoint's own tokenizer.json does.
        plain = declared in AS_THE_FILE_SAYS
        found: Any = PreTrainedTokenizerFast if plain else AutoTokenizer
        hf = found.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{spec.path} has no tokenizer that can be loaded: {error}"
        ) from error
    return Tokenizer(hf, spec.name, spec.chat_template)
