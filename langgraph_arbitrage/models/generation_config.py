"""Reads the generation settings that a checkpoint recommends in generation_config.json."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["NO_RULES", "GenerationDefaults", "TokenRules", "generation_defaults"]


@dataclass(frozen=True)
class TokenRules:
    """Rules that change the next-token logits, in greedy decoding and in sampling.

    Each field has the meaning of the field with the same name in transformers' `GenerationConfig`.
    """

    repetition_penalty: float = 1.0
    """Penalty for tokens that occur in the prompt or the answer: positive logits are divided by it,
    and negative logits are multiplied by it. 1 changes nothing."""
    no_repeat_ngram_size: int = 0
    """Length n of token n-grams that may occur only once. 0 allows repetition."""
    suppress_tokens: tuple[int, ...] = ()
    """Ids of tokens that are never generated."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Ids of tokens that an answer must not begin with."""
    min_new_tokens: int = 0
    """Minimum number of tokens of an answer."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Token id sequences that are never generated."""

    @property
    def active(self) -> bool:
        """Whether any rule changes the logits."""
        return self != NO_RULES


NO_RULES = TokenRules()


@dataclass(frozen=True)
class GenerationDefaults:
    """Generation settings that a checkpoint recommends. None: the checkpoint has no value."""

    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_new_tokens: int | None = None
    end_ids: frozenset[int] | None = None
    """Token ids that end an answer."""
    rules: TokenRules = NO_RULES


def generation_defaults(spec: ModelSpec, config: PreTrainedConfig) -> GenerationDefaults:
    """Return the generation settings that a checkpoint recommends.

    They are read from generation_config.json. Older checkpoints have them in config.json.

    Raises:
        CheckpointError: A value has the wrong type or is outside its range.
    """
    return _read(spec.path, spec.revision or "main", config)


def _load(path: str, revision: str) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:
        return None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"generation_config.json of {path} is invalid: {error}") from error


def _read(path: str, revision: str, config: PreTrainedConfig) -> GenerationDefaults:
    found = _load(path, revision) or GenerationConfig.from_model_config(config)
    check = _Checked(found, path)
    return GenerationDefaults(
        do_sample=bool(found.do_sample),
        temperature=check.number("temperature", low=0.0),
        top_p=check.number("top_p", low=0.0, high=1.0, above=True),
        top_k=check.whole("top_k"),
        min_p=check.number("min_p", low=0.0, high=1.0),
        max_new_tokens=check.whole("max_new_tokens", low=1),
        end_ids=check.end_ids(),
        rules=TokenRules(
            repetition_penalty=check.number("repetition_penalty", low=0.0, above=True) or 1.0,
            no_repeat_ngram_size=check.whole("no_repeat_ngram_size") or 0,
            suppress_tokens=check.tokens("suppress_tokens"),
            begin_suppress_tokens=check.tokens("begin_suppress_tokens"),
            min_new_tokens=check.whole("min_new_tokens") or 0,
            bad_words_ids=check.words("bad_words_ids"),
        ),
    )


class _Checked:
    """Reads values of a generation config. Raises `CheckpointError` for an invalid value."""

    def __init__(self, config: GenerationConfig, path: str) -> None:
        self._config = config
        self._path = path

    def _value(self, name: str) -> Any:
        return getattr(self._config, name, None)

    def _error(self, name: str, allowed: str) -> CheckpointError:
        return CheckpointError(
            f"generation_config.json of {self._path}: {name} must be {allowed}, not "
            f"{self._value(name)!r}. Correct the file, or set generation_config='ignore'."
        )

    def number(
        self, name: str, *, low: float, high: float = math.inf, above: bool = False
    ) -> float | None:
        """Return a number between `low` and `high`. `above` excludes `low` itself."""
        value = self._value(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (above and value == low):
            bound = f"above {low:g}" if above else f"at least {low:g}"
            limit = "" if high == math.inf else f" and at most {high:g}"
            raise self._error(name, f"a number {bound}{limit}")
        return float(value)

    def whole(self, name: str, *, low: int = 0) -> int | None:
        """Return a whole number of at least `low`."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self._error(name, f"a whole number of at least {low}")
        return value

    def tokens(self, name: str) -> tuple[int, ...]:
        """Return a list of token ids."""
        value = self._value(name)
        if value is None:
            return ()
        if not _are_ids(value):
            raise self._error(name, "a list of token ids")
        return tuple(value)

    def words(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Return a list of token id sequences."""
        value = self._value(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(w and _are_ids(w) for w in value):
            raise self._error(name, "a list of non-empty lists of token ids")
        return tuple(tuple(word) for word in value)

    def end_ids(self) -> frozenset[int] | None:
        """Return the end-of-sequence ids. The config may contain one id or a list."""
        value = self._value("eos_token_id")
        if value is None:
            return None
        ids = [value] if isinstance(value, int) else value
        if not _are_ids(ids):
            raise self._error("eos_token_id", "a token id or a list of token ids")
        return frozenset(ids)


def _are_ids(value: object) -> bool:
    return isinstance(value, Iterable) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )
