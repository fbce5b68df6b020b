"""Constrained decoding: masks logits by a grammar, and ends the answer within its token limit.

llguidance is an optional dependency, so functions import it at the first use.
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

# An "ending" is a list of tokens that completes the answer from the current state of the grammar.
MAX_ENDING = 1024  # tokens; the search for an ending stops beyond this length
# Once at most this many tokens remain, each new token must leave enough tokens for an ending.
CHECK_WITHIN = 64
# The same applies once at most CHECK_FACTOR × the length of the ending remains.
CHECK_FACTOR = 3
CLOSING_CHARACTERS = '"}]>)'


class GrammarState:
    """The state of the grammar of one sequence after the tokens generated so far.

    The constructor computes the state from the answer's earlier token ids in `ids`.

    Args:
        tokenizer: The model's tokenizer.
        end_ids: Token ids that end an answer.
        grammar: The grammar, and the index in `ids` at which the answer begins.
        ids: Token ids of the prompt and the answer so far.
        room: Maximum number of tokens to generate.

    Raises:
        GrammarError: The answer so far does not match the grammar.
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
        self._remaining = room
        """Maximum number of tokens that may still be generated."""
        answer = list(ids[grammar.start :])
        if answer and not self._matcher.consume_tokens(answer):
            raise GrammarError(
                f"The answer so far does not match its grammar. The answer so far ends with "
                f"{tokenizer.decode(answer)[-80:]!r}. Start a new answer, or use the grammar that "
                "the answer began with."
            )
        self._ending = self._find_ending()
        """A short list of tokens that completes the answer. None if the search found none."""
        self._next_check = self._remaining

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, and the grammar allows no further token."""
        return bool(self._matcher.is_stopped())

    def restrict(self, logits: Tensor) -> None:
        """Set the logits [V] of forbidden tokens to -inf, in place."""
        self._unmasked = logits.clone()
        allowed = self._vocabulary.allowed(self._matcher, logits.shape[0])
        logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), -torch.inf)

    def advance(self, token: int) -> tuple[int, float]:
        """Advance the state by `token`, or by the first token of the known ending.

        The ending's token replaces `token` if the tokens that remain after `token` are too few to
        complete the answer.

        Args:
            token: The token chosen from the masked logits.

        Returns:
            The token to append, and its log-probability under the unmasked logits.
        """
        token = self._consume(token)
        logits = self._unmasked.float()
        return token, float(logits[token] - logits.logsumexp(dim=-1))

    def _consume(self, token: int) -> int:
        """Update the state with `token` or its replacement. Returns the token that was used."""
        before = self._ending
        can_steer = self._must_check() and before is not None and len(before) <= self._remaining
        self._remaining -= 1
        if token in self._end_ids:
            return token
        self._matcher.consume_token(token)
        if self.complete or not self._must_check():
            return token
        if before is None or not self._ends_with(before):
            self._ending = self._find_ending()
        self._next_check = self._remaining - CHECK_WITHIN // 4
        fits = self._ending is not None and len(self._ending) <= self._remaining
        if not can_steer or fits:
            return token
        if not before:
            return token  # the answer was already complete, so the ending has no replacement
        self._matcher.rollback(1)
        token, self._ending = before[0], before[1:]
        if token not in self._end_ids:
            self._matcher.consume_token(token)
        return token

    def _must_check(self) -> bool:
        """Return whether to check that an ending fits the remaining tokens.

        Near the token limit, the check runs for every token, otherwise for every 16th token.
        """
        length = len(self._ending) if self._ending is not None else 0
        near_limit = self._remaining <= max(CHECK_WITHIN, CHECK_FACTOR * length)
        return near_limit or self._remaining <= self._next_check

    def _ends_with(self, tokens: list[int]) -> bool:
        """Return whether `tokens` complete the answer from the current state."""
        tokens = [t for t in tokens if t not in self._end_ids]
        consumed = self._matcher.try_consume_tokens(tokens)
        ends = consumed == len(tokens) and bool(self._matcher.is_accepting())
        if consumed:
            self._matcher.rollback(consumed)
        return ends

    def _find_ending(self) -> list[int] | None:
        """Search greedily for a short ending, by the ranks of `_Vocabulary`.

        Returns:
            The tokens of the ending. None if the search found no ending of up to about
            `MAX_ENDING` tokens.
        """
        matcher = self._matcher  # not copied, since a copy would lose the matcher's caches
        ending: list[int] = []
        run, ended = 0, True
        while not (matcher.is_accepting() or matcher.is_stopped()):
            forced = matcher.compute_ff_tokens()
            if not forced:
                forced = self._vocabulary.lowest_ranked(matcher, run)
                run = run + 1 if forced and self._vocabulary.is_content[forced[0]] else 0
            ended = len(ending) <= MAX_ENDING and bool(forced)
            if not ended or matcher.try_consume_tokens(forced) < len(forced):
                ended = False
                break
            ending += forced
        if ending:
            matcher.rollback(len(ending))
        return ending if ended else None


class _Vocabulary:
    """The vocabulary for llguidance, with a rank for each token.

    The search for an ending takes the allowed token of the lowest rank. Closing characters have low
    ranks, and opening characters have high ranks.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        import_llguidance()
        from llguidance.hf import from_tokenizer  # type: ignore[import-untyped, unused-ignore]

        hf: Any = tokenizer.hf
        try:
            self.tokenizer = from_tokenizer(hf, eos_token=sorted(end_ids) or None)
        except ValueError as error:
            raise GrammarError(
                f"{tokenizer.name} cannot generate under a grammar, because llguidance does not "
                f"support its tokenizer: {error}. Use a model with a fast tokenizer "
                "(tokenizer.json)."
            ) from error
        self.size = self.tokenizer.vocab_size
        self._bits = np.zeros((self.size + 31) // 32, dtype=np.int32)
        added = {i: str(t) for i, t in tokenizer.hf.added_tokens_decoder.items() if i < self.size}
        self.marks = {t: i for i, t in added.items() if self.tokenizer.is_special_token(i)}
        """Maps the text of each special token to its id. Grammars refer to special tokens by id."""
        texts = [added.get(i) or self._text(i) for i in range(self.size)]
        self.rank = np.array([self._rank(text) for text in texts])
        self.rank_in_text = np.array([self._rank_in_text(text) for text in texts])
        self.is_content = np.array([any(c.isalnum() for c in text) for text in texts])

    def allowed(self, matcher: Any, size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Compute a boolean mask [size] of the tokens that the grammar allows next.

        Tokens outside the tokenizer's vocabulary are False.
        """
        bits = np.zeros_like(self._bits)
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        mask = np.unpackbits(bits.view(np.uint8), bitorder="little")[:size].astype(bool)
        mask[self.size :] = False
        return mask if len(mask) == size else np.pad(mask, (0, size - len(mask)))

    def lowest_ranked(self, matcher: Any, run: int) -> list[int]:
        """Return the allowed token of the lowest rank, as a list. Empty if no token is allowed.

        Args:
            matcher: The state of the grammar.
            run: Number of consecutive content tokens chosen last. It is added to the rank of
                content tokens, since the search could otherwise extend a number forever.
        """
        allowed = self.allowed(matcher, self.size)
        # If most content tokens are allowed, the state is inside free text. Brackets there are
        # ordinary characters, so only quotes and tags have low ranks.
        in_text = 2 * np.count_nonzero(allowed & self.is_content) > np.count_nonzero(
            self.is_content
        )
        rank = self.rank_in_text if in_text else self.rank
        ranks = np.where(allowed, rank + run * self.is_content, np.inf)
        best = int(ranks.argmin())
        return [best] if np.isfinite(ranks[best]) else []

    def _text(self, token: int) -> str:
        return self.tokenizer.decode_bytes([token]).decode("utf-8", "replace")

    @staticmethod
    def _rank_in_text(text: str) -> float:
        """Compute the rank of a token inside free text, such as a JSON string."""
        stripped = text.strip()
        if stripped.startswith(('"', "</")):
            return 1.0 - 0.01 * len(text)
        return 1.5 if stripped.startswith("<") else 3.0 + 0.01 * len(text)

    @staticmethod
    def _rank(text: str) -> float:
        """Compute the rank of a token outside free text."""
        stripped = text.strip()
        if not stripped:
            return 6.0
        if all(c in CLOSING_CHARACTERS for c in stripped) or stripped.startswith("</"):
            return 1.0 - 0.01 * len(text)
        if stripped in ("{}", "[]"):
            return 1.5
        if stripped.isdigit():
            return 2.0 + 0.01 * len(text)
        if stripped[0] in CLOSING_CHARACTERS or stripped[0] in ",:":
            return 2.5
        return 5.0 if stripped[0] in "[{" else 3.0 + 0.01 * len(text)


def import_llguidance() -> Any:
    """Import and return llguidance.

    Raises:
        MissingExtraError: llguidance is not installed.
    """
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError(
            "Structured output and forced tool calls need llguidance, which is not installed: "
            "pip install 'langgraph-arbitrage[structured]'"
        ) from error
    return llguidance


@lru_cache(maxsize=32)
def _vocabulary(tokenizer: Tokenizer, end_ids: frozenset[int]) -> _Vocabulary:
    return _Vocabulary(tokenizer, end_ids)


@lru_cache(maxsize=256)
def _compiled(tokenizer: Tokenizer, end_ids: frozenset[int], lark: str) -> tuple[_Vocabulary, Any]:
    """Compile a grammar. The result is cached, so each sequence must copy the matcher."""
    llguidance = import_llguidance()
    vocabulary = _vocabulary(tokenizer, end_ids)
    matcher = llguidance.LLMatcher(
        vocabulary.tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), log_level=0
    )
    if matcher.is_error():
        cause = matcher.get_error().split("\n")[0]
        raise GrammarError(
            f"The JSON schema or grammar of the request cannot be compiled: {cause}. Correct or "
            "simplify it."
        )
    return vocabulary, matcher


def grammar_marks(tokenizer: Tokenizer, end_ids: frozenset[int]) -> dict[str, int]:
    """Return a dict from the text of each special token to its id.

    A grammar must write a special token as `<[id]>`.

    Raises:
        GrammarError: llguidance does not support the tokenizer.
        MissingExtraError: llguidance is not installed.
    """
    return _vocabulary(tokenizer, end_ids).marks


def check_grammar(tokenizer: Tokenizer, end_ids: frozenset[int], lark: str) -> None:
    """Compile a grammar and cache the result, so that the worker thread need not compile it.

    Raises:
        GrammarError: The grammar cannot be compiled.
        MissingExtraError: llguidance is not installed.
    """
    _compiled(tokenizer, end_ids, lark)
