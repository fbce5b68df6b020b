"""Decoding under a grammar: which tokens may come next, row by row, and how to end in time.

llguidance is an extra and is imported at its first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langgraph_arbitrage.engine.requests import Grammar
from langgraph_arbitrage.errors import GrammarError, MissingExtraError
from langgraph_arbitrage.models.tokenizer import Tokenizer

__all__ = ["GrammarState", "check_grammar", "grammar_marks"]

LONGEST_CLOSING = 1024  # tokens after which the search for an end is given up
WATCH = 64  # tokens before the limit from which each token is checked to leave room for an end
WATCH_FACTOR = 3  # the same, as a multiple of the shortest end found so far
CLOSERS = '"}]>)'


class GrammarState:
    """A grammar as it stands after the tokens so far. One a row, on the worker's thread.

    A request is stateless: what is already written of the answer is read again from its ids.

    Raises:
        GrammarError: What is already written does not fit the grammar.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        grammar: Grammar,
        ids: Sequence[int],
        room: int,
    ) -> None:
        self._vocabulary, matcher = _compiled(tokenizer, end_ids, grammar.lark)
        self._matcher = matcher.deep_copy()
        self._end_ids = end_ids
        self._left = room
        """Tokens that may still be written."""
        written = list(ids[grammar.start :])
        if written and not self._matcher.consume_tokens(written):
            raise GrammarError(
                f"what is written so far, {tokenizer.decode(written)[-80:]!r}, does not fit the "
                "grammar that the answer is to be written under"
            )
        self._ending = self._find_ending()
        self._watch_at = self._left

    @property
    def complete(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def restrict(self, logits: Tensor) -> None:
        """Forbid in place what cannot come next; logits of one position, shape [V]."""
        self._free = logits.clone()
        allowed = self._vocabulary.allowed(self._matcher, logits.shape[0])
        logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), -torch.inf)

    def take(self, token: int) -> tuple[int, float]:
        """Go on by a token, or by another one where after it no end would fit the limit.

        Args:
            token: The token that was chosen among the allowed ones.

        Returns:
            The token that was taken, and its log-probability with nothing forbidden: it tells how
            far the model itself would have gone this way.
        """
        token = self._taken(token)
        free = self._free.float()
        return token, float(free[token] - free.logsumexp(dim=-1))

    def _taken(self, token: int) -> int:
        steers = self._watching() and self._ending is not None and len(self._ending) <= self._left
        before = self._ending
        self._left -= 1
        if token in self._end_ids:
            return token
        self._matcher.consume_token(token)
        if self.complete or not self._watching():
            return token
        if before is None or not self._ends_by(before):
            self._ending = self._find_ending()
        self._watch_at = self._left - WATCH // 4
        if not steers or (self._ending is not None and len(self._ending) <= self._left):
            return token
        if not before:
            return token  # it might have ended here, and there is room for no more
        self._matcher.rollback(1)
        token, self._ending = before[0], before[1:]
        if token not in self._end_ids:
            self._matcher.consume_token(token)
        return token

    def _watching(self) -> bool:
        """Whether this token is checked: all near the limit, now and then before."""
        known = len(self._ending) if self._ending is not None else 0
        near = self._left <= max(WATCH, WATCH_FACTOR * known)
        return near or self._left <= self._watch_at

    def _ends_by(self, tokens: list[int]) -> bool:
        """Whether these tokens still end the answer from here."""
        words = [t for t in tokens if t not in self._end_ids]
        taken = self._matcher.try_consume_tokens(words)
        ends = taken == len(words) and bool(self._matcher.is_accepting())
        if taken:
            self._matcher.rollback(taken)
        return ends

    def _find_ending(self) -> list[int] | None:
        """Tokens that end the answer soon; greedy: closing marks first, openers last."""
        matcher = self._matcher  # not a copy: what it has worked out on the way is kept
        found: list[int] = []
        run, ended = 0, True
        while not (matcher.is_accepting() or matcher.is_stopped()):
            forced = matcher.compute_ff_tokens()
            if not forced:
                forced = self._vocabulary.soonest(matcher, run)
                run = run + 1 if forced and self._vocabulary.content[forced[0]] else 0
            ended = len(found) <= LONGEST_CLOSING and bool(forced)
            if not ended or matcher.try_consume_tokens(forced) < len(forced):
                ended = False
                break
            found += forced
        if found:
            matcher.rollback(len(found))
        return found if ended else None


class _Vocabulary:
    """A tokenizer as llguidance knows it, and how soon each token leads to an end."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        import_llguidance()
        from llguidance.hf import from_tokenizer  # type: ignore[import-untyped, unused-ignore]

        hf: Any = tokenizer.hf
        try:
            self.tokenizer = from_tokenizer(hf, eos_token=sorted(end_ids) or None)
        except ValueError as error:
            raise GrammarError(
                f"{tokenizer.name} cannot write under a grammar: its tokenizer is not one of the "
                f"`tokenizers` library ({error})"
            ) from error
        self.size = self.tokenizer.vocab_size
        self._bits = np.zeros((self.size + 31) // 32, dtype=np.int32)
        added = {i: str(t) for i, t in tokenizer.hf.added_tokens_decoder.items() if i < self.size}
        self.marks = {t: i for i, t in added.items() if self.tokenizer.is_special_token(i)}
        """Tokens that a grammar names by id, by their text: no text matches them."""
        texts = [added.get(i) or self._text(i) for i in range(self.size)]
        self.rank = np.array([self._rank(text) for text in texts])
        self.rank_in_text = np.array([self._rank_in_text(text) for text in texts])
        self.content = np.array([any(c.isalnum() for c in text) for text in texts])

    def allowed(self, matcher: Any, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of `width` tokens may come next, shape [V]."""
        bits = np.zeros_like(self._bits)
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        found = np.unpackbits(bits.view(np.uint8), bitorder="little")[:width].astype(bool)
        found[self.size :] = False
        return found if len(found) == width else np.pad(found, (0, width - len(found)))

    def soonest(self, matcher: Any, run: int) -> list[int]:
        """The allowed token that leads to an end soonest; none where nothing is allowed.

        After a `run` of ordinary tokens they come last: one could go on with digits for ever.
        """
        allowed = self.allowed(matcher, self.size)
        # Where most words may come it is free text, and a bracket there closes nothing.
        in_text = 2 * np.count_nonzero(allowed & self.content) > np.count_nonzero(self.content)
        rank = self.rank_in_text if in_text else self.rank
        ranks = np.where(allowed, rank + run * self.content, np.inf)
        best = int(ranks.argmin())
        return [best] if np.isfinite(ranks[best]) else []

    def _text(self, token: int) -> str:
        return self.tokenizer.decode_bytes([token]).decode("utf-8", "replace")

    @staticmethod
    def _rank_in_text(text: str) -> float:
        """Lower leads to an end of free text sooner."""
        bare = text.strip()
        if bare.startswith(('"', "</")):
            return 1.0 - 0.01 * len(text)
        return 1.5 if bare.startswith("<") else 3.0 + 0.01 * len(text)

    @staticmethod
    def _rank(text: str) -> float:
        """Lower leads to an end sooner."""
        bare = text.strip()
        if not bare:
            return 6.0
        if all(c in CLOSERS for c in bare) or bare.startswith("</"):
            return 1.0 - 0.01 * len(text)
        if bare in ("{}", "[]"):
            return 1.5
        if bare.isdigit():
            return 2.0 + 0.01 * len(text)
        if bare[0] in CLOSERS or bare[0] in ",:":
            return 2.5
        return 5.0 if bare[0] in "[{" else 3.0 + 0.01 * len(text)


def import_llguidance() -> Any:
    """The library, or an error that says how to install it."""
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError(
            "structured output and forced tool calls need llguidance, which is not installed: "
            "pip install 'langgraph-arbitrage[structured]'"
        ) from error
    return llguidance


@lru_cache(maxsize=32)
def _vocabulary(tokenizer: Tokenizer, end_ids: frozenset[int]) -> _Vocabulary:
    return _Vocabulary(tokenizer, end_ids)


@lru_cache(maxsize=256)
def _compiled(tokenizer: Tokenizer, end_ids: frozenset[int], lark: str) -> tuple[_Vocabulary, Any]:
    """A grammar is compiled once for a tokenizer; each row takes a copy of the matcher."""
    llguidance = import_llguidance()
    vocabulary = _vocabulary(tokenizer, end_ids)
    matcher = llguidance.LLMatcher(
        vocabulary.tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), log_level=0
    )
    if matcher.is_error():
        cause = matcher.get_error().split("\n")[0]
        raise GrammarError(f"the schema or grammar of this answer cannot be compiled: {cause}")
    return vocabulary, matcher


def grammar_marks(tokenizer: Tokenizer, end_ids: frozenset[int]) -> dict[str, int]:
    """Tokens that a grammar has to name by their ids, as `<[id]>`, by their text.

    Raises:
        GrammarError: The tokenizer is none that llguidance can read.
        MissingExtraError: llguidance is not installed.
    """
    return _vocabulary(tokenizer, end_ids).marks


def check_grammar(tokenizer: Tokenizer, end_ids: frozenset[int], lark: str) -> None:
    """Compile a grammar on the caller's thread, so that the worker finds it compiled.

    Raises:
        GrammarError: It cannot be compiled.
        MissingExtraError: llguidance is not installed.
    """
    _compiled(tokenizer, end_ids, lark)
