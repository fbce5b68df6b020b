"""Thread-safe tokenizers, which render chat templates, encode text and decode token ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from langgraph_arbitrage.errors import ChatTemplateError, CheckpointError, MessageError
from langgraph_arbitrage.models.gguf import pretrained_source
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.models.special_tokens import ControlTokens
from langgraph_arbitrage.remote.address import parse_address
from langgraph_arbitrage.utils.fork_lock import ForkLock
from langgraph_arbitrage.utils.text import is_valid_text

__all__ = ["Tokenizer", "load_tokenizer"]

# Tokenizer classes that implement tokenizer.json exactly.
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]",
           "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")  # fmt: skip
"""Special tokens that mark tool calls or thinking in the supported formats."""
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
# Some tokenizers encode the start of a text differently. So `encode` inserts an anchor before a
# continuation and removes the anchor's ids from the result. A "\n" anchor could merge with a
# newline, so a continuation that starts with a newline gets the other anchor.
_ANCHOR, _ANCHOR_BEFORE_NEWLINE = "\n", "a"


class Tokenizer:
    """A checkpoint's tokenizer and chat template. Thread-safe.

    Args:
        hf: The transformers tokenizer.
        name: Name of the checkpoint, for error messages.
        chat_template: Jinja chat template that replaces the checkpoint's. None: use the
            checkpoint's.

    Raises:
        ChatTemplateError: The tokenizer has several named templates, and none is the default.
    """

    def __init__(self, hf: PreTrainedTokenizerBase, name: str, chat_template: str | None) -> None:
        self.hf = hf
        self.name = name
        # Conversations with tools use the checkpoint's template "tool_use", if there is one.
        self.chat_template, self._tool_template = _templates(hf, name, chat_template)
        self.template_kwargs: dict[str, Any] = {}
        """Additional variables for the chat template."""
        self._variants: dict[str, Tokenizer] = {}  # copies with other `template_kwargs`
        self._shared: dict[str, ControlTokens] = {}  # shared with the variants
        # A fast tokenizer raises "Already borrowed" if two threads encode at the same time.
        self._lock = ForkLock()
        # tokenizer.json may enable truncation and padding. `_encode` calls the backend directly, so
        # transformers does not disable them.
        if hf.is_fast:
            hf.backend_tokenizer.no_truncation()
            hf.backend_tokenizer.no_padding()

    def with_template_kwargs(self, kwargs: Mapping[str, Any]) -> Tokenizer:
        """Return a copy of this tokenizer with variables for its chat template.

        Args:
            kwargs: Variables, such as `enable_thinking`. Equal variables return the same copy.
        """
        if not kwargs:
            return self
        key = json.dumps(kwargs, sort_keys=True, default=str)
        found = self._variants.get(key)
        if found is None:
            found = copy(self)
            found.template_kwargs = dict(kwargs)
            found = self._variants.setdefault(key, found)
        return found

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Render a conversation as token ids, up to the start of the assistant's answer.

        Args:
            messages: Messages as dicts with `role` and `content`.
            **options: Further arguments of the chat template.

        Raises:
            ChatTemplateError: The model has no chat template, or it rejects the messages.
        """
        return self._encode(self.render_text(messages, **options))

    def render_text(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Render a conversation as text, including special tokens. See `render`.

        Raises:
            ChatTemplateError: The model has no chat template, or it rejects the messages.
        """
        text: str = self._apply_template(messages, tokenize=False, **options)
        return text

    def _apply_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        if not self.chat_template:
            raise ChatTemplateError(
                f"{self.name} has no chat template. Set `chat_template=` to a Jinja template, or "
                "use an instruction-tuned checkpoint, which includes one."
            )
        try:
            with self._lock:
                return self.hf.apply_chat_template(
                    [dict(m) for m in messages],
                    chat_template=(options.get("tools") and self._tool_template)
                    or self.chat_template,
                    **{"add_generation_prompt": True} | self.template_kwargs | options,
                )
        # A template is a program, which may raise any of these errors.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
                RecursionError) as error:  # fmt: skip
            raise ChatTemplateError(
                f"The chat template of {self.name} cannot render this conversation "
                f"(roles {[m.get('role') for m in messages]}): {error}"
            ) from error

    def frame(self, *messages: tuple[str, str | None]) -> list[str]:
        """Render messages with missing contents. Returns the texts around the missing contents.

        Args:
            messages: Role and content of each message. None marks a missing content, which the
                caller inserts later.

        Returns:
            The texts before, between and after the missing contents, up to the start of the
            assistant's next message. The first text excludes `start_ids`.

        Raises:
            ChatTemplateError: The model has no chat template, or the template rejects the messages
                or omits their contents.
        """
        placeholders = [f"•{i}•" for i in range(len(messages))]
        rendered = [
            {"role": role, "content": placeholder if content is None else content}
            for placeholder, (role, content) in zip(placeholders, messages, strict=True)
        ]
        rest, parts = self._apply_template(rendered, tokenize=False), []
        for placeholder, (_, content) in zip(placeholders, messages, strict=True):
            if content is None:
                part, separator, rest = rest.partition(placeholder)
                if not separator:
                    raise ChatTemplateError(
                        f"The chat template of {self.name} omits the content of a message (roles "
                        f"{[role for role, _ in messages]}). Set `chat_template=` to a template "
                        "that renders every message."
                    )
                parts.append(part)
        parts.append(rest)
        parts[0] = parts[0].removeprefix(str(self.hf.decode(self.start_ids)))
        return parts

    def encode(self, text: str, *, begins: bool = False) -> list[int]:
        """Encode text without adding special tokens.

        Args:
            text: The text.
            begins: Whether the text begins a sequence. Otherwise the text continues a sequence.
        """
        if begins:
            return self._encode(text)
        before = _ANCHOR_BEFORE_NEWLINE if text.startswith("\n") else _ANCHOR
        ids, anchor = self._encode(before + text), self._anchors[before]
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        if not is_valid_text(text):
            raise MessageError(
                "The text contains half of a surrogate pair, so it cannot be encoded as UTF-8. "
                "Replace it, for example with text.encode('utf-8', 'replace').decode()."
            )
        if ControlTokens.has_placeholder(text):
            return self.control_tokens.encode(text)
        with self._lock:
            if self.hf.is_fast:  # 5 times as fast as `self.hf.encode`
                ids: list[int] = self.hf.backend_tokenizer.encode(
                    text, add_special_tokens=False
                ).ids
            else:
                ids = self.hf.encode(text, add_special_tokens=False)
        return ids

    @cached_property
    def _anchors(self) -> dict[str, list[int]]:
        return {text: self._encode(text) for text in (_ANCHOR, _ANCHOR_BEFORE_NEWLINE)}

    def choices(self, text: str, options: Sequence[str]) -> tuple[list[int], list[int]]:
        """Encode a text and several options, each of which continues the text by one token.

        Args:
            text: A text that continues a sequence. Depending on the tokenizer, a space before the
                options is part of the last token of `text` or of the options.
            options: Possible continuations of `text`.

        Returns:
            The token ids of `text`, and the token id of each option.

        Raises:
            CheckpointError: An option is not a single token, or two options have the same token.
        """
        combined = [self.encode(text + option) for option in options]
        prefix = combined[0][:-1]
        if any(ids[:-1] != prefix for ids in combined):
            prefix = self.encode(text)
            combined = [prefix + self.encode(option) for option in options]
        ends = [ids[-1] for ids in combined]
        single = all(len(ids) == len(prefix) + 1 for ids in combined)
        if not single or len(set(ends)) < len(ends):
            raise CheckpointError(
                f"The tokenizer of {self.name} does not encode each of "
                f"{', '.join(map(repr, options))} as a single, distinct token, so their "
                "probabilities cannot be compared. Use other options or another model."
            )
        return prefix, ends

    def raw_token(self, token: int) -> str:
        """Return the string of a token id in the vocabulary, such as `Ġthe`."""
        return str(self.hf.convert_ids_to_tokens(token))

    def added_token_id(self, text: str) -> int | None:
        """Return the id of the added token with this text, such as `<|im_end|>`, or None."""
        return self._added_tokens.get(text)

    @cached_property
    def _added_tokens(self) -> dict[str, int]:
        return {str(token): index for index, token in self.hf.added_tokens_decoder.items()}

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids. Special tokens are omitted, except those in `visible_ids`."""
        if self.visible_ids.isdisjoint(ids):
            return self._decode(ids)
        text, start = "", 0
        for i, token in enumerate(ids):
            if token in self.visible_ids:
                text += self._decode(ids[start:i]) + self._special_tokens[token]
                start = i + 1
        return text + self._decode(ids[start:])

    def _decode(self, ids: Sequence[int]) -> str:
        if self.hf.is_fast:  # 5 times as fast as `self.hf.decode`
            text: str = self.hf.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
            return text
        return self.hf.decode(  # type: ignore[return-value]
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    @cached_property
    def _special_tokens(self) -> dict[int, str]:
        added = self.hf.added_tokens_decoder
        return {token: str(added[token]) for token in self.hf.all_special_ids if token in added}

    @property
    def control_tokens(self) -> ControlTokens:
        """The special tokens, and the added tokens that occur in chat templates or `MARKERS`."""
        found = self._shared.get("control_tokens")
        if found is None:
            templates = "\n".join(filter(None, (self.chat_template, self._tool_template)))
            names = frozenset(
                str(token)
                for token in self.hf.added_tokens_decoder.values()
                if token.special or str(token) in templates or str(token) in MARKERS
            )
            backend = self.hf.backend_tokenizer if self.hf.is_fast else None
            found = ControlTokens(backend, names, self.name)
            self._shared["control_tokens"] = found
        return found

    def same_control_tokens(self, text: str, ids: Sequence[int]) -> bool:
        """Return whether encoding `text` gives the same special and added tokens as `ids`."""
        added = self.hf.added_tokens_decoder
        return [i for i in self._encode(text) if i in added] == [i for i in ids if i in added]

    @cached_property
    def visible_ids(self) -> frozenset[int]:
        """Ids of special tokens that `decode` includes.

        They mark tool calls or thinking: the tokens in `MARKERS` and in `response_template`.
        """
        template = json.dumps(self.response_template or {}).replace("\\", "")
        return frozenset(
            token
            for token, text in self._special_tokens.items()
            if token != self.hf.eos_token_id and (text in MARKERS or text in template)
        )

    @cached_property
    def response_template(self) -> dict[str, Any] | None:
        """The tokenizer's `response_template`, which describes the response format, or None."""
        return getattr(self.hf, "response_template", None)

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Decode `ids` as the continuation of `before`. Returns the text after that of `before`.

        Some tokenizers drop a space at the start of a text, and a character may span several
        tokens. So `before` and `ids` are decoded together.
        """
        if not before:
            return self.decode(ids)
        return self.decode([*before, *ids])[len(self.decode(before)) :]

    def token_text(self, token: int) -> str:
        """Decode one token as the continuation of a text."""
        return self.decode_after(self._anchors[_ANCHOR_BEFORE_NEWLINE], [token])

    def token_bytes(self, token: int) -> list[int]:
        """Return the UTF-8 bytes of one token as the continuation of a text.

        If a token is only a part of a character, its text is U+FFFD, but its bytes are exact.
        """
        text = self.token_text(token)
        if "\ufffd" not in text:
            return list(text.encode())
        raw = self.raw_token(token)
        if byte := _BYTE_TOKEN.fullmatch(raw):  # SentencePiece format
            return [int(byte[1], 16)]
        if all(character in _BYTE_OF for character in raw):  # byte-level BPE format
            return [_BYTE_OF[character] for character in raw]
        return list(text.encode())

    @cached_property
    def start_ids(self) -> list[int]:
        """Ids of the special tokens that the tokenizer inserts before a text, such as BOS."""
        bare = self._encode("a")
        with self._lock:
            full: list[int] = self.hf.encode("a", add_special_tokens=True)
        for i in range(len(full) - len(bare) + 1):
            if full[i : i + len(bare)] == bare:
                return full[:i]
        return []

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self.hf.get_vocab()

    def shares_vocabulary(self, other: Tokenizer) -> bool:
        """Return whether both tokenizers map the same token ids to the same tokens."""
        return self is other or self._vocabulary == other._vocabulary


def _templates(
    hf: PreTrainedTokenizerBase, name: str, replacement: str | None
) -> tuple[str | None, str | None]:
    """Return the default chat template and the template for conversations with tools.

    Each is None if the checkpoint does not have it. If `replacement` is given, it is the only
    template.
    """
    if replacement is not None:
        return replacement, None
    own: Any = hf.chat_template
    if not isinstance(own, Mapping):
        return own, None
    default = own.get("default")
    if default is None:
        raise ChatTemplateError(
            f"{name} has the chat templates {', '.join(map(repr, own))}, but none is named "
            "'default'. Set `chat_template=` to the text of one of them."
        )
    return default, own.get("tool_use")


def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """Load and cache the tokenizer of a checkpoint. Equal checkpoints share one tokenizer.

    Raises:
        CheckpointError: The checkpoint has no tokenizer, or it cannot be loaded.
    """
    address = parse_address(spec.path)
    return _load(
        ModelSpec(
            address.tokenizer if address else spec.path,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            chat_template=spec.chat_template,
        )
    )


@lru_cache(maxsize=64)
def _load(spec: ModelSpec) -> Tokenizer:
    try:
        path, gguf = pretrained_source(spec.path)
        declared = None
        if not gguf:
            declared = get_tokenizer_config(path, revision=spec.revision).get("tokenizer_class")
        # For some architectures, such as Qwen2, AutoTokenizer chooses a class that may encode text
        # differently from the checkpoint's tokenizer.json.
        tokenizer_class: Any = (
            PreTrainedTokenizerFast if declared in GENERIC_CLASSES else AutoTokenizer
        )
        hf = tokenizer_class.from_pretrained(
            path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **gguf
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The tokenizer of {spec.path} cannot be loaded: {error}") from error
    return Tokenizer(hf, spec.name, spec.chat_template)
