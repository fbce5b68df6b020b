"""Thread-safe tokenizers and chat templates: convert text to token ids and back."""

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

# Tokenizer classes that follow tokenizer.json exactly.
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]",
           "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")  # fmt: skip
"""Special tokens that mark tool calls or thinking in the supported formats."""
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
# `encode` puts one of these before a continuation and removes its ids afterwards, so that the
# tokenizer does not treat the continuation as the start of a text. "\n" could merge with a newline.
_ANCHOR, _ANCHOR_BEFORE_NEWLINE = "\n", "a"


class Tokenizer:
    """A checkpoint's tokenizer and chat template. Threads may share it.

    Args:
        hf: The transformers tokenizer.
        name: Name of the checkpoint, for error messages.
        chat_template: Jinja chat template, which replaces the tokenizer's own.

    Raises:
        ChatTemplateError: The tokenizer has several named templates, and none is the default.
    """

    def __init__(self, hf: PreTrainedTokenizerBase, name: str, chat_template: str | None) -> None:
        self.hf = hf
        self.name = name
        # Conversations with tools use the template named "tool_use", if there is one.
        self.chat_template, self._tool_template = _templates(hf, name, chat_template)
        self.template_kwargs: dict[str, Any] = {}
        """Variables for the chat template."""
        self._variants: dict[str, Tokenizer] = {}
        self._shared: dict[str, ControlTokens] = {}  # also used by the variants
        # A fast tokenizer raises "Already borrowed" if two threads encode at the same time.
        self._lock = ForkLock()
        # tokenizer.json may enable both. Transformers disables them, but `_encode` bypasses it.
        if hf.is_fast:
            hf.backend_tokenizer.no_truncation()
            hf.backend_tokenizer.no_padding()

    def with_template_kwargs(self, kwargs: Mapping[str, Any]) -> Tokenizer:
        """Return this tokenizer with variables for its chat template, such as `enable_thinking`.

        Args:
            kwargs: Variables of the template. The result is cached for identical variables.
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
        # A template is a program in the checkpoint, which may raise any of these errors.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
                RecursionError) as error:  # fmt: skip
            raise ChatTemplateError(
                f"The chat template of {self.name} cannot render this conversation "
                f"(roles {[m.get('role') for m in messages]}): {error}"
            ) from error

    def frame(self, *messages: tuple[str, str | None]) -> list[str]:
        """Return the texts that the chat template puts around contents that are filled in later.

        Args:
            messages: Role and content of each message. None marks content that is filled in later.

        Returns:
            The texts before, between and after the missing contents, up to the start of the
            assistant's next message. The first text excludes the tokenizer's start tokens.

        Raises:
            ChatTemplateError: The model has no chat template, it rejects the messages, or it does
                not render their contents.
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
                        f"The chat template of {self.name} does not render the contents of a "
                        f"conversation with the roles {[role for role, _ in messages]}"
                    )
                parts.append(part)
        parts.append(rest)
        parts[0] = parts[0].removeprefix(str(self.hf.decode(self.start_ids)))
        return parts

    def encode(self, text: str, *, begins: bool = False) -> list[int]:
        """Encode text without adding special tokens.

        Args:
            text: The text.
            begins: Whether the text begins a document. Otherwise it continues one.
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
                "the text contains half of a surrogate pair, which no UTF-8 text may contain. "
                "Remove it, for example with text.encode('utf-8', 'replace').decode()"
            )
        if ControlTokens.has_placeholder(text):
            return self.control_tokens.encode(text)
        with self._lock:
            if self.hf.is_fast:  # transformers encodes a batch of one, which takes 5 times as long
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
        """Encode a text and its possible continuations of one token each.

        A space between the two belongs to the text or to the options, depending on the tokenizer.

        Args:
            text: A text that continues another one.
            options: Possible continuations of `text`.

        Returns:
            The token ids of `text` and the token id of each option.

        Raises:
            CheckpointError: An option is not a single token, or two options are the same token.
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
        """Return a token as it is written in the vocabulary."""
        return str(self.hf.convert_ids_to_tokens(token))

    def added_token_id(self, text: str) -> int | None:
        """Return the id of the added token with this text, such as `<|im_end|>`, or None."""
        return self._added_tokens.get(text)

    @cached_property
    def _added_tokens(self) -> dict[str, int]:
        return {str(token): index for index, token in self.hf.added_tokens_decoder.items()}

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids. Special tokens are left out, except those in `visible_ids`."""
        if self.visible_ids.isdisjoint(ids):
            return self._decode(ids)
        text, start = "", 0
        for i, token in enumerate(ids):
            if token in self.visible_ids:
                text += self._decode(ids[start:i]) + self._special_tokens[token]
                start = i + 1
        return text + self._decode(ids[start:])

    def _decode(self, ids: Sequence[int]) -> str:
        if self.hf.is_fast:  # transformers checks the type of each id, which takes 5 times as long
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
        """The tokens that structure a conversation: special tokens, and those in chat templates.

        Raises:
            CheckpointError: The tokenizer is not a fast one.
        """
        found = self._shared.get("control_tokens")
        if found is None:
            if not self.hf.is_fast:
                raise CheckpointError(
                    f"The tokenizer of {self.name} has no fast version, so special tokens in the "
                    'text cannot be escaped. Set special_tokens_in_text to "allow" or "refuse".'
                )
            templates = "\n".join(filter(None, (self.chat_template, self._tool_template)))
            names = frozenset(
                str(token)
                for token in self.hf.added_tokens_decoder.values()
                if token.special or str(token) in templates or str(token) in MARKERS
            )
            found = ControlTokens(self.hf.backend_tokenizer, names)
            self._shared["control_tokens"] = found
        return found

    def same_control_tokens(self, text: str, ids: Sequence[int]) -> bool:
        """True if a text, encoded again, has the same special and added tokens as these ids."""
        added = self.hf.added_tokens_decoder
        return [i for i in self._encode(text) if i in added] == [i for i in ids if i in added]

    @cached_property
    def visible_ids(self) -> frozenset[int]:
        """Ids of special tokens that `decode` includes, since they mark tool calls or thinking.

        These are `MARKERS` and the tokens in the checkpoint's response template.
        """
        template = json.dumps(self.response_template or {}).replace("\\", "")
        return frozenset(
            token
            for token, text in self._special_tokens.items()
            if token != self.hf.eos_token_id and (text in MARKERS or text in template)
        )

    @cached_property
    def response_template(self) -> dict[str, Any] | None:
        """The checkpoint's description of its response format, or None."""
        return getattr(self.hf, "response_template", None)

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Decode the text that `ids` add to the text of `before`.

        `before` and `ids` are decoded together, since some tokenizers drop a space at the start of
        a text, and a character may span several tokens.
        """
        if not before:
            return self.decode(ids)
        return self.decode([*before, *ids])[len(self.decode(before)) :]

    def token_text(self, token: int) -> str:
        """Decode one token as part of a longer text."""
        return self.decode_after(self._anchors[_ANCHOR_BEFORE_NEWLINE], [token])

    def token_bytes(self, token: int) -> list[int]:
        """UTF-8 bytes of one token as part of a longer text.

        A token may hold part of a character: its text is then U+FFFD, and only its bytes tell
        which part.
        """
        text = self.token_text(token)
        if "\ufffd" not in text:
            return list(text.encode())
        raw = self.raw_token(token)
        if byte := _BYTE_TOKEN.fullmatch(raw):  # as SentencePiece writes it
            return [int(byte[1], 16)]
        if all(character in _BYTE_OF for character in raw):  # as byte-level BPE writes it
            return [_BYTE_OF[character] for character in raw]
        return list(text.encode())

    @cached_property
    def start_ids(self) -> list[int]:
        """Ids of the special tokens that the tokenizer adds before a text, such as BOS."""
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
        """Whether both tokenizers map the same token ids to the same tokens."""
        return self is other or self._vocabulary == other._vocabulary


def _templates(
    hf: PreTrainedTokenizerBase, name: str, replacement: str | None
) -> tuple[str | None, str | None]:
    """Return the default chat template, and the template for conversations with tools or None."""
    if replacement is not None:
        return replacement, None
    own: Any = hf.chat_template
    if not isinstance(own, Mapping):
        return own, None
    default = own.get("default")
    if default is None:
        raise ChatTemplateError(
            f"{name} has the chat templates {', '.join(map(repr, own))}, and none is named "
            "'default'. Set `chat_template=` to the one to use."
        )
    return default, own.get("tool_use")


def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """Load the tokenizer of a checkpoint. It is cached and shared by all models of the checkpoint.

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
        # AutoTokenizer chooses a class by architecture for some models (Qwen2), which may encode
        # text differently from the checkpoint's own tokenizer.json.
        tokenizer_class: Any = (
            PreTrainedTokenizerFast if declared in GENERIC_CLASSES else AutoTokenizer
        )
        hf = tokenizer_class.from_pretrained(
            path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **gguf
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The tokenizer of {spec.path} cannot be loaded: {error}") from error
    return Tokenizer(hf, spec.name, spec.chat_template)
