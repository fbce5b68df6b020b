"""Text to token ids and back, by each model's own tokenizer and chat template."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.errors import ChatTemplateError, CheckpointError

__all__ = ["Tokenizer", "load_tokenizer"]

AS_THE_FILE_SAYS = ("TokenizersBackend", "PreTrainedTokenizerFast")
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]",
         "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")  # fmt: skip
"""Special tokens that mark calls and thinking, in the formats that are known here."""
_ANCHOR = "\n"  # text before a continuation, so that no tokenizer takes it for a sentence's start


class Tokenizer:
    """A checkpoint's tokenizer; safe to share between threads."""

    def __init__(self, hf: PreTrainedTokenizerBase, name: str, chat_template: str | None) -> None:
        self.hf = hf
        self.name = name
        self.chat_template = hf.chat_template or chat_template
        # A fast tokenizer raises "Already borrowed" when two threads encode at a time.
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Token ids of a conversation, up to where the assistant's answer begins.

        Raises:
            ChatTemplateError: There is no template, or it refuses these messages.
        """
        encoded = self._rendered(messages, tokenize=True, return_dict=True, **options)
        ids: list[int] = encoded["input_ids"]
        return ids

    def render_text(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The same as text, special tokens and all.

        Raises:
            ChatTemplateError: There is no template, or it refuses these messages.
        """
        text: str = self._rendered(messages, tokenize=False, **options)
        return text

    def _rendered(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        if not self.chat_template:
            raise ChatTemplateError(
                f"{self.name} has no chat template. Give one: `chat_template=` with a Jinja "
                "template, or use an instruction-tuned checkpoint, which brings its own."
            )
        try:
            with self._lock:
                return self.hf.apply_chat_template(
                    [dict(m) for m in messages],
                    chat_template=self.chat_template,
                    **{"add_generation_prompt": True} | options,
                )
        # A template is a program of the model's makers: it may fail in any of these ways.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
                RecursionError) as error:  # fmt: skip
            raise ChatTemplateError(
                f"the chat template of {self.name} cannot render this conversation "
                f"(roles {[m.get('role') for m in messages]}): {error}"
            ) from error

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
        """Text of `ids` without special tokens, but for the marks of calls and of thinking."""
        if self.marks.isdisjoint(ids):
            return self._decoded(ids)
        text, start = "", 0
        for i, token in enumerate(ids):
            if token in self.marks:
                text += self._decoded(ids[start:i]) + self._special[token]
                start = i + 1
        return text + self._decoded(ids[start:])

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.hf.decode(  # type: ignore[return-value]
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    @cached_property
    def _special(self) -> dict[int, str]:
        added = self.hf.added_tokens_decoder
        return {token: str(added[token]) for token in self.hf.all_special_ids if token in added}

    @cached_property
    def marks(self) -> frozenset[int]:
        """Special tokens that belong to an answer's text: they mark calls or thinking."""
        template = json.dumps(self.response_template or {}).replace("\\", "")
        return frozenset(
            token
            for token, text in self._special.items()
            if token != self.hf.eos_token_id and (text in MARKS or text in template)
        )

    @cached_property
    def response_template(self) -> dict[str, Any] | None:
        """The checkpoint's own description of how its answers are to be parsed."""
        return getattr(self.hf, "response_template", None)

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
