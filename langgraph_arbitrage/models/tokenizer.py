"""Text to token ids and back, by each model's own tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from langgraph_arbitrage.errors import ChatTemplateError, CheckpointError
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.remote.address import address_of
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["Tokenizer", "load_tokenizer"]

AS_THE_FILE_SAYS = ("TokenizersBackend", "PreTrainedTokenizerFast")
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]",
         "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")  # fmt: skip
"""Special tokens that mark calls and thinking, in the formats that are known here."""
# Text before a continuation, so that no tokenizer takes it for a sentence's start; it must not
# be cut together with what follows.
_ANCHOR, _ANCHOR_OF_LINES = "\n", "a"


class Tokenizer:
    """A checkpoint's tokenizer; safe to share between threads."""

    def __init__(self, hf: PreTrainedTokenizerBase, name: str, chat_template: str | None) -> None:
        self.hf = hf
        self.name = name
        self.chat_template = hf.chat_template or chat_template
        # A fast tokenizer raises "Already borrowed" when two threads encode at a time.
        self._lock = ForkLock()
        if hf.is_fast:  # what the file may ask for, and transformers undoes at its first encoding
            hf.backend_tokenizer.no_truncation()
            hf.backend_tokenizer.no_padding()

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Token ids of a conversation, up to where the assistant's answer begins.

        Raises:
            ChatTemplateError: There is no template, or it refuses these messages.
        """
        return self._encoded(self.render_text(messages, **options))

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

    def frame(self, *messages: tuple[str, str | None]) -> list[str]:
        """What the chat template puts around contents that are not known yet.

        Args:
            messages: Role and content of each message, None for a content to come.

        Returns:
            The texts before, between and after the contents to come, up to where the assistant
            speaks next. The first one lacks what the tokenizer puts before every text by itself.

        Raises:
            ChatTemplateError: There is no template, it refuses such messages, or it does not show
                their contents.
        """
        marks = [f"•{i}•" for i in range(len(messages))]
        contents = [
            {"role": role, "content": mark if content is None else content}
            for mark, (role, content) in zip(marks, messages, strict=True)
        ]
        rest, parts = self._rendered(contents, tokenize=False), []
        for mark, (_, content) in zip(marks, messages, strict=True):
            if content is None:
                part, found, rest = rest.partition(mark)
                if not found:
                    raise ChatTemplateError(
                        f"the chat template of {self.name} does not show what stands in a "
                        f"conversation of the roles {[role for role, _ in messages]}"
                    )
                parts.append(part)
        parts.append(rest)
        parts[0] = parts[0].removeprefix(str(self.hf.decode(self.start_ids)))
        return parts

    def encode(self, text: str, *, begins: bool = False) -> list[int]:
        """Token ids of `text` without special tokens around it.

        Args:
            text: Any text.
            begins: Whether it is the beginning of a text; else it goes on from another.
        """
        if begins:
            return self._encoded(text)
        before = _ANCHOR_OF_LINES if text.startswith("\n") else _ANCHOR
        anchored, anchor = self._encoded(before + text), self._anchors[before]
        if anchored[: len(anchor)] == anchor:
            return anchored[len(anchor) :]
        return self._encoded(text)

    def _encoded(self, text: str) -> list[int]:
        with self._lock:
            if self.hf.is_fast:  # transformers makes a batch of one: 5 times the time
                ids: list[int] = self.hf.backend_tokenizer.encode(
                    text, add_special_tokens=False
                ).ids
            else:
                ids = self.hf.encode(text, add_special_tokens=False)
        return ids

    @cached_property
    def _anchors(self) -> dict[str, list[int]]:
        return {text: self._encoded(text) for text in (_ANCHOR, _ANCHOR_OF_LINES)}

    def choices(self, text: str, options: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of `text` as a continuation, and of each option as the one token that follows it.

        A blank between the two goes where the tokenizer puts it, if that is the same for all.

        Raises:
            CheckpointError: An option is not one token of its own.
        """
        whole = [self.encode(text + option) for option in options]
        start = whole[0][:-1]
        if any(ids[:-1] != start for ids in whole):
            start = self.encode(text)
            whole = [start + self.encode(option) for option in options]
        ends = [ids[-1] for ids in whole]
        if any(len(ids) != len(start) + 1 for ids in whole) or len(set(ends)) < len(ends):
            raise CheckpointError(
                f"the tokenizer of {self.name} does not cut {', '.join(map(repr, options))} into "
                "one token each, so they cannot be weighed against each other"
            )
        return start, ends

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
        if self.hf.is_fast:  # transformers looks at the type of each id first: 5 times the time
            text: str = self.hf.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
            return text
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
        return self.decode_after(self._anchors[_ANCHOR_OF_LINES], [token])

    @cached_property
    def start_ids(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text, such as BOS."""
        bare = self._encoded("a")
        with self._lock:
            whole: list[int] = self.hf.encode("a", add_special_tokens=True)
        for i in range(len(whole) - len(bare) + 1):
            if whole[i : i + len(bare)] == bare:
                return whole[:i]
        return []

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self.hf.get_vocab()

    def shares_vocabulary(self, other: Tokenizer) -> bool:
        """Whether token ids of one mean the same text to the other."""
        return self is other or self._vocabulary == other._vocabulary


def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """The tokenizer of a checkpoint, loaded once a process, whatever sits on the model.

    Raises:
        CheckpointError: The checkpoint has no loadable tokenizer.
    """
    address = address_of(spec.path)
    return _loaded(
        ModelSpec(
            address.tokenizer if address else spec.path,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            chat_template=spec.chat_template,
        )
    )


@lru_cache(maxsize=64)
def _loaded(spec: ModelSpec) -> Tokenizer:
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
