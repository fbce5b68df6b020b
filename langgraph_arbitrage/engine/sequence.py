"""The state of one request: its tokens, its draft tokens, and its stop conditions."""

from __future__ import annotations

import random
from collections import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langgraph_arbitrage.decoding.grammar import GrammarState
from langgraph_arbitrage.decoding.stop_rule import StopRule
from langgraph_arbitrage.engine.logits_rules import LogitsRules
from langgraph_arbitrage.engine.requests import (
    FinishReason,
    GenerateOutput,
    GenerateRequest,
    RequestHandle,
    ScoreOutput,
    ScoreRequest,
)

__all__ = ["Batch", "Sequence", "Slot"]

FIRST_CHUNK = 48  # draft tokens in the first verification; limits the cost of a rejection


@dataclass(eq=False)
class Slot:
    """A place in the KV cache for one sequence."""

    index: int
    tokens: list[int]
    """Token ids whose keys and values are valid, from position 0. A rollback shortens the list."""
    busy: bool = False
    """Whether a running sequence uses the slot."""
    released: int = 0
    """Time of the last release, in ticks of the cache's clock."""
    long_rope: bool = False
    """Whether the keys use the rotary frequencies for lengths beyond the model's rope switch."""


class Sequence:
    """A request and its tokens: the prompt, generated tokens, and draft tokens being verified.

    Args:
        handle: The request.
        end_ids: Token ids that end an answer.
        context: Context length of the model in tokens. None: unlimited.
        logit_count: Number of trailing positions whose logits are needed.
        skipped: Number of trailing request tokens not to compute. It is 1 for a scored text, whose
            last token is scored by the logits at the token before it.
        stop_rule: Detects separators and stop strings.
        rules: Token rules that change the logits.
        grammar: State of the request's grammar.
        draft_tokens: Tokens to verify.
    """

    slot: Slot

    def __init__(
        self,
        handle: RequestHandle[Any],
        end_ids: frozenset[int] = frozenset(),
        context: int | None = None,
        *,
        logit_count: int = 1,
        skipped: int = 0,
        stop_rule: StopRule | None = None,
        rules: LogitsRules | None = None,
        grammar: GrammarState | None = None,
        draft_tokens: abc.Sequence[int] = (),
    ) -> None:
        self.handle = handle
        self.request: GenerateRequest | ScoreRequest = handle.request
        self.end_ids = end_ids
        self.context = context
        self.logit_count = logit_count
        self.stop_rule = stop_rule
        self.rules = rules
        self.grammar = grammar
        self.tokens = list(self.request.ids)[: len(self.request.ids) - skipped]
        """Token ids: the prompt, generated tokens, and draft tokens being verified."""
        self.prompt_length = len(self.tokens)
        self.draft_tokens: tuple[int, ...] = ()
        """Draft tokens that the next forward verifies."""
        self.logprobs: list[float] = []
        self.accepted_draft_tokens = 0
        self.computed_tokens = 0
        self.cached_tokens = 0
        self._unverified = tuple(draft_tokens)
        if isinstance(self.request, GenerateRequest) and self.request.begun is not None:
            self.tokens += self.request.begun.ids
            self.logprobs += self.request.begun.logprobs
            self.accepted_draft_tokens = self.request.begun.accepted_draft_tokens
        self._verify_next()
        self._rewind_random()

    @property
    def verify_only(self) -> bool:
        """Whether the request ends after the verification of its draft tokens."""
        return isinstance(self.request, GenerateRequest) and self.request.verify_only

    @property
    def _has_grammar(self) -> bool:
        return isinstance(self.request, GenerateRequest) and self.request.grammar is not None

    # --- next tokens to compute ----------------------------------------------------------

    def start(self, slot: Slot) -> None:
        """Assign a slot, which may already contain a prefix of the sequence."""
        self.slot = slot
        self.cached_tokens = min(len(slot.tokens), self.prompt_length)

    @property
    def remaining(self) -> int:
        """Number of known tokens that are not computed yet."""
        return len(self.tokens) - len(self.slot.tokens)

    def chunk(self, limit: int) -> int:
        """Number of tokens to compute next.

        The last chunk contains all positions whose logits are needed. It may exceed `limit`.
        """
        if self.remaining <= max(limit, self.logit_count):
            return self.remaining
        return min(limit, self.remaining - self.logit_count)

    def mark_computed(self, count: int) -> None:
        """Record that the keys and values of the next `count` tokens are in the slot."""
        start = len(self.slot.tokens)
        self.slot.tokens.extend(self.tokens[start : start + count])
        self.computed_tokens += count

    # --- generation ----------------------------------------------------------------------

    def accept(
        self, tokens: abc.Sequence[int], logprobs: abc.Sequence[float]
    ) -> FinishReason | None:
        """Append the tokens that the model chose, up to the first one that differs from the draft.

        The model samples with a random number generator that does not depend on the draft. So the
        output is the same with and without draft tokens:

            accept d_i iff it equals the model's own token t_i given t_0 … t_{i-1}

        The first differing token replaces the draft token and ends the verification.

        Args:
            tokens: The token that the model chose at each position whose logits were computed.
            logprobs: Log-probability of each token.

        Returns:
            Why the step ends, or None if it continues.
        """
        drafts, self.draft_tokens, self.logit_count = self.draft_tokens, (), 1
        del self.tokens[len(self.tokens) - max(0, len(drafts) - 1) :]
        finish: FinishReason | None = None
        if self.verify_only and self._has_grammar:
            return "verified"
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            finish = self.append(token, logprob)
            agrees = i < len(drafts) and token == drafts[i]
            self.accepted_draft_tokens += agrees
            if finish is not None or not agrees:
                self._unverified = ()
                break
        if self.verify_only:
            # The slot keeps the rejected draft tokens, since the step may still be accepted.
            return finish or "verified"
        if drafts:
            del self.slot.tokens[len(self.tokens) - 1 :]  # roll back rejected draft tokens
            self._rewind_random()
            self._verify_next()
        return finish

    def append(self, token: int, logprob: float) -> FinishReason | None:
        """Append a token. Returns why the step ends, or None if it continues."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.handle.listener is not None:
            self.handle.listener(token)
        if token in self.end_ids or (self.grammar is not None and self.grammar.complete):
            return "end"
        request = self.request
        if isinstance(request, GenerateRequest) and token in request.stop_token_ids:
            return "stop"
        assert isinstance(request, GenerateRequest)  # noqa: S101 - scores never generate
        if self.stop_rule is not None:
            before = self.tokens[self.prompt_length - 1] if self.prompt_length else None
            match = self.stop_rule.match(
                before, self.tokens[self.prompt_length :], request.tail, request.block
            )
            if match:
                return match
        if len(self.tokens) - self.prompt_length >= request.max_tokens:
            return "length"
        if self.context is not None and len(self.tokens) >= self.context:
            return "context"
        return None

    def _verify_next(self) -> None:
        """Schedule the next draft tokens for verification.

        The first chunk is short. Each later chunk is as long as the number of draft tokens accepted
        so far. A `verify_only` request verifies all tokens at once. The last draft token of a chunk
        is not computed: the logits at the token before it verify it.
        """
        if self._unverified:
            length = max(FIRST_CHUNK, self.accepted_draft_tokens)
            if self.verify_only:
                length = len(self._unverified)
            self.draft_tokens = self._unverified[:length]
            self._unverified = self._unverified[length:]
            self.tokens += self.draft_tokens[:-1]
            self.logit_count = len(self.draft_tokens)

    def _rewind_random(self) -> None:
        """Reset the random number generator to its state after the generated tokens.

        Each token consumes one number. Rejected draft tokens must not consume any.
        """
        if isinstance(self.request, GenerateRequest):
            self.random = random.Random(self.request.sampling.seed)
            for _ in self.logprobs:
                self.random.random()

    # --- outputs -------------------------------------------------------------------------

    def generate_output(
        self, finish: FinishReason, draft_scores: ScoreOutput | None = None
    ) -> GenerateOutput:
        """Build the output of a `GenerateRequest`."""
        return GenerateOutput(
            ids=self.tokens[self.prompt_length :],
            logprobs=self.logprobs,
            finish=finish,
            computed_tokens=self.computed_tokens,
            cached_tokens=self.cached_tokens,
            accepted_draft_tokens=self.accepted_draft_tokens,
            seconds=self.handle.seconds,
            draft_scores=draft_scores,
        )

    def score_output(
        self,
        logits: abc.Sequence[float] = (),
        logprobs: abc.Sequence[float] = (),
        entropies: abc.Sequence[float] = (),
        ranks: abc.Sequence[int] = (),
    ) -> ScoreOutput:
        """Build the output of a `ScoreRequest`."""
        return ScoreOutput(
            logits=list(logits),
            logprobs=list(logprobs),
            entropies=list(entropies),
            ranks=list(ranks),
            computed_tokens=self.computed_tokens,
            cached_tokens=self.cached_tokens,
            seconds=self.handle.seconds,
        )


@dataclass(frozen=True)
class Batch:
    """The input of one forward: the next `counts[i]` tokens of `sequences[i]`."""

    sequences: list[Sequence]
    counts: list[int]

    @cached_property
    def logit_counts(self) -> list[int]:
        """Number of trailing positions of each sequence whose logits the forward returns.

        0 if more tokens of the sequence remain. Cached at the first access, which must be before
        the forward: the forward changes the number of remaining tokens.
        """
        return [
            s.logit_count if n == s.remaining else 0
            for s, n in zip(self.sequences, self.counts, strict=True)
        ]
