"""Continuous batching: decides before each forward which sequences run.

Sequences join and leave between two forwards, so no sequence waits for another to end. Each forward
computes one token of every decoding sequence. The rest of its token budget goes to prompts, in
order of arrival.
"""

from __future__ import annotations

from collections import abc, deque
from typing import Any, Protocol

import torch
from torch import Tensor

from langgraph_arbitrage.decoding.grammar import GrammarState
from langgraph_arbitrage.decoding.stop_rule import stop_rule
from langgraph_arbitrage.engine.kv_cache import common_prefix
from langgraph_arbitrage.engine.logits_rules import LogitsRules
from langgraph_arbitrage.engine.requests import (
    GenerateRequest,
    RequestHandle,
    ScoreOutput,
    ScoreRequest,
)
from langgraph_arbitrage.engine.sampler import sample
from langgraph_arbitrage.engine.sequence import Batch, Sequence, Slot
from langgraph_arbitrage.engine.transfer import on_device
from langgraph_arbitrage.errors import NotEnoughMemoryError
from langgraph_arbitrage.models.tokenizer import Tokenizer

__all__ = ["Runner", "Scheduler", "SlotCache"]

MIN_CHUNK = 32  # minimum budget for prompt tokens, even if many sequences are decoding
# A sequence waits while another one computes a shared prefix of at least this many tokens.
MIN_SHARED_PREFIX = 16


class SlotCache(Protocol):
    """Assigns slots to sequences. Implemented by `KVCache` and `SingleSlot`."""

    max_slots: int
    """Maximum number of busy slots."""

    @property
    def shaped(self) -> bool:
        """Whether the memory per token is known. The first forward determines it."""

    def allocate(self, ids: abc.Sequence[int], limit: int) -> Slot | None:
        """Take a slot that contains a prefix of `ids`. None if all slots are busy.

        Args:
            ids: Tokens of the sequence.
            limit: Maximum length of the prefix.

        Raises:
            NotEnoughMemoryError: There is no memory for the sequence.
        """

    def reserve(self, tokens: int) -> None:
        """Allocate memory for a sequence of `tokens` tokens.

        Raises:
            NotEnoughMemoryError: There is no memory for the sequence.
        """

    def release(self, slot: Slot) -> None:
        """Release a slot."""

    def cached(self, ids: abc.Sequence[int]) -> int:
        """Length of the longest prefix of `ids` in any slot."""

    def clear(self) -> None:
        """Discard the contents of all slots."""


class Runner(Protocol):
    """Computes the logits of batches. Implemented by `ModelRunner` and `PlainRunner`."""

    name: str
    verifies_drafts: bool
    """Whether several draft tokens can be verified in one forward."""
    tokens_per_forward: int
    """Token budget of a forward."""
    rope_switch: int | None
    """Length beyond which a sequence uses different frequencies (see `rope.rope_switch`)."""

    @property
    def cache(self) -> SlotCache:
        """The slots of the runner."""

    def forward(self, batch: Batch) -> Tensor:
        """Compute the logits [W, V] or [W, labels] of the batch's W trailing positions."""


class Scheduler:
    """Runs requests in batches on one model and resolves their handles.

    Args:
        runner: Computes the batches.
        tokenizer: The model's tokenizer.
        end_ids: Token ids that end an answer.
        context: Context length of the model in tokens. None: unlimited.
        classifies: Whether the model is a classifier.
        batch_invariant: Run one sequence at a time, without reusing cached prefixes.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
        *,
        classifies: bool = False,
        batch_invariant: bool = False,
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context = context
        self.classifies = classifies
        self.batch_invariant = batch_invariant
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._long_turn = False

    @property
    def busy(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.running or self.waiting)

    def add(self, handle: RequestHandle[Any]) -> None:
        """Queue a request. If it is invalid, only its own handle fails."""
        try:
            self.waiting.append(self._sequence(handle))
        except Exception as error:  # from a grammar or a tokenizer
            handle.fail(error)

    def step(self) -> None:
        """Schedule a batch, run it, and process its logits."""
        batch = self.schedule()
        if batch.sequences:
            logits = self.runner.forward(batch)
            self.process(batch, logits)

    def fail(self, error: BaseException) -> None:
        """Fail all requests with an error."""
        sequences = [*self.running, *self.waiting]
        for sequence in tuple(self.running):
            self._stop(sequence)
        self.waiting.clear()
        for sequence in sequences:
            sequence.handle.fail(error)

    # --- schedule ------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """Drop cancelled requests, admit waiting ones, and choose the next batch."""
        self._drop_cancelled()
        self._reserve_memory()
        self._admit()
        if self.batch_invariant and self.running:
            self.running.append(self.running.pop(0))
            first = self.running[-1]
            self._set_rope(first, first.slot)
            whole = first.slot.long_rope
            limit = self.runner.tokens_per_forward
            return Batch([first], [first.remaining if whole else first.chunk(limit)])
        running = self._compatible()
        decoding = [s for s in running if s.remaining == 1]
        batch = Batch(decoding, [1] * len(decoding))
        budget = max(self.runner.tokens_per_forward - len(decoding), MIN_CHUNK)
        for sequence in running:
            if sequence.remaining > 1 and budget > 0:
                # A first chunk below the rope switch would get the frequencies of short sequences.
                whole = sequence.slot.long_rope
                count = sequence.remaining if whole else sequence.chunk(budget)
                is_first = len(batch.sequences) == len(decoding)
                # A scored text may exceed any budget, so the first prompt always runs.
                if count <= budget or is_first:
                    batch.sequences.append(sequence)
                    batch.counts.append(count)
                    budget -= count
        return batch

    def _compatible(self) -> list[Sequence]:
        """Return the running sequences that may share the next forward.

        Sequences below and above the rope switch need different frequencies, so the two groups take
        turns. A sequence that has grown beyond the switch is computed again.
        """
        if self.runner.rope_switch is None:
            return self.running
        for sequence in self.running:
            self._set_rope(sequence, sequence.slot)
        self._long_turn = not self._long_turn
        side = [s for s in self.running if s.slot.long_rope == self._long_turn]
        return side or self.running

    def _set_rope(self, sequence: Sequence, slot: Slot) -> None:
        """Set a slot's frequencies by the sequence length. Discards keys with other frequencies."""
        switch = self.runner.rope_switch
        long_rope = switch is not None and len(sequence.tokens) > switch
        if slot.long_rope != long_rope:
            slot.tokens.clear()
            slot.long_rope = long_rope

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self.running if s.handle.cancelled]:
            self._stop(sequence)
            sequence.handle.fail()
        for sequence in [s for s in self.waiting if s.handle.cancelled]:
            self.waiting.remove(sequence)
            sequence.handle.fail()

    def _reserve_memory(self) -> None:
        """Move running sequences that no longer fit in memory to the front of the queue."""
        for sequence in reversed(self.running[:]):
            try:
                self.runner.cache.reserve(len(sequence.tokens))
            except NotEnoughMemoryError:
                self._stop(sequence)
                self.waiting.appendleft(sequence)

    def _admit(self) -> None:
        for sequence in list(self.waiting):
            if self.running and not self.runner.cache.shaped:
                return  # the first forward determines the memory per token
            if self._prefix_is_being_computed(sequence):
                continue
            try:
                limit = 0 if self.batch_invariant else len(sequence.tokens) - sequence.logit_count
                slot = self.runner.cache.allocate(sequence.tokens, limit)
            except NotEnoughMemoryError as error:
                if self.running:
                    return  # retry after a running sequence has finished
                self.waiting.remove(sequence)
                sequence.handle.fail(error)
                continue
            if slot is None:
                return
            self.waiting.remove(sequence)
            self._set_rope(sequence, slot)
            sequence.start(slot)
            self.running.append(sequence)

    def _prefix_is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a long prefix that this one can then copy."""
        computing = [s for s in self.running if s.remaining >= MIN_SHARED_PREFIX]
        if not computing or self.batch_invariant:
            return False
        cached = self.runner.cache.cached(sequence.tokens)
        return any(
            common_prefix(s.tokens, sequence.tokens) - max(cached, len(s.slot.tokens))
            >= MIN_SHARED_PREFIX
            for s in computing
        )

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.runner.cache.release(sequence.slot)

    # --- process -------------------------------------------------------------------------

    def process(self, batch: Batch, logits: Tensor) -> None:
        """Sample tokens or compute scores from the logits [W, V], and resolve finished requests."""
        generating: list[tuple[Sequence, range]] = []
        first = 0
        for sequence, count in zip(batch.sequences, batch.logit_counts, strict=True):
            rows = range(first, first + count)
            first += count
            if not count:
                continue  # its prompt is not fully computed yet
            if isinstance(sequence.request, GenerateRequest):
                generating.append((sequence, rows))
            else:
                own = logits[rows.start : rows.stop]
                self._finish(sequence, self._score(sequence, sequence.request, own))
        if generating:
            self._generate(generating, logits)

    def _generate(self, generating: list[tuple[Sequence, range]], logits: Tensor) -> None:
        """Sample the next tokens of sequences, each given with the rows of its logits."""
        selected = [row for _, rows in generating for row in rows]
        if len(selected) < len(logits):
            logits = logits.index_select(0, on_device(selected, logits.device))
        scores = self._draft_scores(generating, logits)
        owners = [s for s, rows in generating for _ in rows]
        raw = None
        if any(s.rules is not None for s in owners):
            raw, logits = logits, self._apply_rules(generating, logits)
        for row, sequence in enumerate(owners):
            if sequence.grammar is not None:
                sequence.grammar.restrict(logits[row])
        requests = [s.request for s in owners]
        samplings = [r.sampling for r in requests if isinstance(r, GenerateRequest)]
        tokens, logprobs = sample(logits, samplings, [s.random for s in owners], raw)
        first = 0
        for sequence, rows in generating:
            end = first + len(rows)
            if sequence.grammar is not None:
                tokens[first], logprobs[first] = sequence.grammar.advance(tokens[first])
            finish = sequence.accept(tokens[first:end], logprobs[first:end])
            first = end
            if finish is not None:
                self._finish(sequence, sequence.generate_output(finish, scores.get(sequence)))

    def _draft_scores(
        self, generating: list[tuple[Sequence, range]], logits: Tensor
    ) -> dict[Sequence, ScoreOutput]:
        """Score the draft tokens of `verify_only` sequences under the unmodified distribution."""
        scores, first = {}, 0
        for sequence, rows in generating:
            if sequence.verify_only:
                own = logits[first : first + len(rows)]
                scores[sequence] = self._score_tokens(sequence, sequence.draft_tokens, own)
            first += len(rows)
        return scores

    def _apply_rules(self, generating: list[tuple[Sequence, range]], logits: Tensor) -> Tensor:
        """Apply token rules. Each row's rules see all tokens before it, including draft tokens."""
        changed, row = logits.float().clone(), 0
        for sequence, rows in generating:
            known = len(sequence.tokens) - len(rows) + 1  # tokens before the first row's token
            for i in range(len(rows)):
                if sequence.rules is not None:
                    changed[row] = sequence.rules.apply(logits[row], sequence.tokens[: known + i])
                row += 1
        return changed

    def _score(self, sequence: Sequence, request: ScoreRequest, logits: Tensor) -> ScoreOutput:
        """Compute the output of a `ScoreRequest` from its logits [W, V] or [1, labels]."""
        if self.classifies:
            return sequence.score_output(logits=logits[-1].float().tolist())
        if request.choices:
            return sequence.score_output(logits=logits[-1][list(request.choices)].float().tolist())
        return self._score_tokens(sequence, request.ids[request.start :], logits)

    def _score_tokens(
        self, sequence: Sequence, ids: abc.Sequence[int], logits: Tensor
    ) -> ScoreOutput:
        """Score n tokens by the logits [W, V] of which the last n rows predict them."""
        scored = on_device(ids, logits.device)  # [n]
        if not len(scored):
            return sequence.score_output()
        distribution = logits[-len(scored) :].float().log_softmax(dim=-1)  # [n, V]
        entropies = torch.special.entr(distribution.exp()).sum(dim=-1)
        logprobs = distribution.gather(-1, scored[:, None])  # [n, 1]
        return sequence.score_output(
            logprobs=logprobs.squeeze(-1).tolist(),
            entropies=entropies.tolist(),
            ranks=(distribution > logprobs).sum(dim=-1).tolist(),
        )

    def _finish(self, sequence: Sequence, output: Any) -> None:
        self._stop(sequence)
        sequence.handle.resolve(output)

    # --- new sequences -------------------------------------------------------------------

    def _sequence(self, handle: RequestHandle[Any]) -> Sequence:
        request = handle.request
        if isinstance(request, ScoreRequest):
            scored = len(request.ids) - request.start
            if self.classifies or request.choices or not scored:
                return Sequence(handle)
            # The logits at a token score the next token, so the last one is not computed.
            return Sequence(handle, logit_count=scored, skipped=1)
        rule = None
        if request.separators or request.stop or request.spans:
            rule = stop_rule(
                self.tokenizer,
                request.separators,
                request.stop,
                request.spans,
                request.min_step_tokens,
            )
        return Sequence(
            handle,
            self.end_ids,
            self.context,
            stop_rule=rule,
            rules=self._rules(request),
            grammar=None if request.verify_only else self._grammar(request),
            draft_tokens=self._draft_tokens(request),
        )

    def _rules(self, request: GenerateRequest) -> LogitsRules | None:
        rules = request.sampling.rules
        return LogitsRules(rules, request.answer_start, self.end_ids) if rules.active else None

    def _draft_tokens(self, request: GenerateRequest) -> abc.Sequence[int]:
        """Return the draft tokens to verify, up to the applicable length limits.

        Empty under a grammar and on the plain runner, unless the request is `verify_only`.
        """
        room = len(request.draft_tokens)
        if not request.verify_only:
            if request.grammar is not None or not self.runner.verifies_drafts:
                return ()
            room = request.max_tokens
        for length in (self.context, self.runner.rope_switch):
            if length is not None and len(request.ids) <= length:
                room = min(room, length - len(request.ids))
        return request.draft_tokens[:room]

    def _grammar(self, request: GenerateRequest) -> GrammarState | None:
        grammar = request.grammar
        if grammar is None:
            return None
        room = grammar.room
        if self.context is not None:
            room = min(room, self.context - len(request.ids))
        return GrammarState(self.tokenizer, self.end_ids, grammar, request.ids, room)
