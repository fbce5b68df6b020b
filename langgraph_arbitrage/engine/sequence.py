"""One request in progress: its tokens, its draft tokens under verification, its stop state."""

from __future__ import annotations

import random
from collections import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langgraph_arbitrage.decoding.grammar import GrammarState
from langgraph_arbitrage.decoding.stop_rule import StopRule
from langgraph_arbitrage.engine.requests import (
    FinishReason,
    GenerateOutput,
    GenerateRequest,
    RequestHandle,
    ScoreOutput,
    ScoreRequest,
)

__all__ = ["Batch", "Sequence", "Slot"]

FIRST_CHUNK = 48  # draft tokens verified at first; bounds what a rejection computes for nothing


@dataclass(eq=False)
class Slot:
    """Room for the keys and values of one sequence."""

    index: int
    tokens: list[int]
    """Token ids whose keys and values are valid, from position 0. A rollback shortens the list."""
    busy: bool = False
    released: int = 0
    """When its last sequence left, in ticks of the cache's clock."""


class Sequence:
    """A request with the tokens known so far.

    Args:
        handle: The request.
        end_ids: Tokens that end an answer.
        context: Context length of the model; None without a limit.
        wanted: Trailing positions whose logits are needed.
        unread: Trailing request tokens that are scored but not computed themselves.
        stop_rule: Finds separators and stop strings.
        grammar: The grammar's state.
        draft_tokens: Tokens to verify.
    """

    slot: Slot

    def __init__(
        self,
        handle: RequestHandle[Any],
        end_ids: frozenset[int] = frozenset(),
        context: int | None = None,
        *,
        wanted: int = 1,
        unread: int = 0,
        stop_rule: StopRule | None = None,
        grammar: GrammarState | None = None,
        draft_tokens: abc.Sequence[int] = (),
    ) -> None:
        self.handle = handle
        self.request: GenerateRequest | ScoreRequest = handle.request
        self.end_ids = end_ids
        self.context = context
        self.wanted = wanted
        self.stop_rule = stop_rule
        self.grammar = grammar
        self.tokens = list(self.request.ids)[: len(self.request.ids) - unread]
        """Tokens to compute: the prompt, those generated, and those under verification."""
        self.prompt_length = len(self.tokens)
        self.draft_tokens: tuple[int, ...] = ()
        """Draft tokens whose logits the next forward returns."""
        self.logprobs: list[float] = []
        self.accepted_draft_tokens = 0
        self.computed_tokens = 0
        self.cached_tokens = 0
        self._unverified = tuple(draft_tokens)
        self._verify_next()
        self._rewind_random()

    # --- what to compute next ------------------------------------------------------------

    def start(self, slot: Slot) -> None:
        """Run in a slot that holds the beginning of the sequence."""
        self.slot = slot
        self.cached_tokens = min(len(slot.tokens), self.prompt_length)

    @property
    def remaining(self) -> int:
        """Known tokens that are not computed yet."""
        return len(self.tokens) - len(self.slot.tokens)

    def chunk(self, limit: int) -> int:
        """Tokens to compute next. The last chunk holds every position whose logits are needed."""
        if self.remaining <= max(limit, self.wanted):
            return self.remaining
        return min(limit, self.remaining - self.wanted)

    def computed(self, count: int) -> None:
        """The next `count` tokens have keys and values now."""
        held = len(self.slot.tokens)
        self.slot.tokens.extend(self.tokens[held : held + count])
        self.computed_tokens += count

    # --- generation ----------------------------------------------------------------------

    def accept(
        self, tokens: abc.Sequence[int], logprobs: abc.Sequence[float]
    ) -> FinishReason | None:
        """Append the model's own choices, as far as the draft tokens agree with them.

        The model chooses from its own random stream, which does not depend on the draft, so the
        output is the same with and without draft tokens:

            accept d_i iff it equals the model's own choice t_i given t_0 … t_{i-1}

        The first differing choice replaces the draft token and ends the verification.

        Args:
            tokens: The model's choice at each wanted position.
            logprobs: Their log-probabilities.
        """
        drafts, self.draft_tokens, self.wanted = self.draft_tokens, (), 1
        del self.tokens[len(self.tokens) - max(0, len(drafts) - 1) :]
        finish: FinishReason | None = None
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            finish = self.append(token, logprob)
            agrees = i < len(drafts) and token == drafts[i]
            self.accepted_draft_tokens += agrees
            if finish is not None or not agrees:
                self._unverified = ()
                break
        if drafts:
            del self.slot.tokens[len(self.tokens) - 1 :]  # roll back rejected draft tokens
            self._rewind_random()
            self._verify_next()
        return finish

    def append(self, token: int, logprob: float) -> FinishReason | None:
        """Append a token; the reason why it ends the step, if it does."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.handle.listener is not None:
            self.handle.listener(token)
        if token in self.end_ids or (self.grammar is not None and self.grammar.complete):
            return "end"
        request = self.request
        assert isinstance(request, GenerateRequest)  # noqa: S101 - scores never generate
        if self.stop_rule is not None:
            before = self.tokens[self.prompt_length - 1] if self.prompt_length else None
            found = self.stop_rule.found(before, self.tokens[self.prompt_length :], request.tail)
            if found:
                return found
        if len(self.tokens) - self.prompt_length >= request.max_tokens:
            return "length"
        if self.context is not None and len(self.tokens) >= self.context:
            return "context"
        return None

    def _verify_next(self) -> None:
        """Put the next draft tokens under verification: after the first chunk, as many as agreed.

        The last one of a chunk is verified by the logits at the token before it.
        """
        if self._unverified:
            length = max(FIRST_CHUNK, self.accepted_draft_tokens)
            self.draft_tokens = self._unverified[:length]
            self._unverified = self._unverified[length:]
            self.tokens += self.draft_tokens[:-1]
            self.wanted = len(self.draft_tokens)

    def _rewind_random(self) -> None:
        """Set the random stream behind the generated tokens, which took one number each."""
        if isinstance(self.request, GenerateRequest):
            self.random = random.Random(self.request.sampling.seed)
            for _ in self.logprobs:
                self.random.random()

    # --- outputs -------------------------------------------------------------------------

    def generated(self, finish: FinishReason) -> GenerateOutput:
        """The output of a `GenerateRequest`."""
        return GenerateOutput(
            ids=self.tokens[self.prompt_length :],
            logprobs=self.logprobs,
            finish=finish,
            computed_tokens=self.computed_tokens,
            cached_tokens=self.cached_tokens,
            accepted_draft_tokens=self.accepted_draft_tokens,
            seconds=self.handle.seconds,
        )

    def scored(
        self,
        logits: abc.Sequence[float] = (),
        logprobs: abc.Sequence[float] = (),
        entropies: abc.Sequence[float] = (),
    ) -> ScoreOutput:
        """The output of a `ScoreRequest`."""
        return ScoreOutput(
            logits=list(logits),
            logprobs=list(logprobs),
            entropies=list(entropies),
            computed_tokens=self.computed_tokens,
            cached_tokens=self.cached_tokens,
            seconds=self.handle.seconds,
        )


@dataclass(frozen=True)
class Batch:
    """What one forward computes: the next `counts[i]` tokens of `sequences[i]`."""

    sequences: list[Sequence]
    counts: list[int]

    @cached_property
    def wanted(self) -> list[int]:
        """Trailing positions of each sequence whose logits are returned: 0 within a prompt.

        Read before the forward: it depends on what is not computed yet.
        """
        return [
            s.wanted if n == s.remaining else 0
            for s, n in zip(self.sequences, self.counts, strict=True)
        ]
