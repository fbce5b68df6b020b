"""Which sequences run: they join and leave between two forwards, and none waits for another's step.

Each step computes one token of every decoding sequence and fills the rest of the forward with
prompts, in order of arrival.
"""

from __future__ import annotations

from collections import abc, deque
from typing import Any, Protocol

import torch
from torch import Tensor

from langgraph_arbitrage.decoding.grammar import GrammarState
from langgraph_arbitrage.decoding.stop_rule import stop_rule
from langgraph_arbitrage.engine.kv_cache import common_prefix
from langgraph_arbitrage.engine.requests import (
    GenerateRequest,
    RequestHandle,
    ScoreOutput,
    ScoreRequest,
)
from langgraph_arbitrage.engine.sampler import choose
from langgraph_arbitrage.engine.sequence import Batch, Sequence, Slot
from langgraph_arbitrage.engine.transfer import on_device
from langgraph_arbitrage.errors import NotEnoughMemoryError
from langgraph_arbitrage.models.tokenizer import Tokenizer

__all__ = ["Runner", "Scheduler", "SlotCache"]

MIN_CHUNK = 32  # prompt tokens that are computed beside any number of decoding sequences
WORTH_WAITING = 16  # a prefix this long that another sequence is computing is waited for


class SlotCache(Protocol):
    """Hands out slots (`KVCache`, or the single slot of a plain runner)."""

    max_slots: int

    @property
    def shaped(self) -> bool:
        """Whether the memory of a token is known."""

    def allocate(self, ids: abc.Sequence[int], limit: int) -> Slot | None:
        """A slot that holds a prefix of `ids`, up to `limit` tokens; None while all are busy."""

    def reserve(self, tokens: int) -> None:
        """Have room for a sequence of `tokens` tokens, or raise `NotEnoughMemoryError`."""

    def release(self, slot: Slot) -> None:
        """Free a slot."""

    def cached(self, ids: abc.Sequence[int]) -> int:
        """Most leading tokens of `ids` that some slot holds."""

    def clear(self) -> None:
        """Forget all slots."""


class Runner(Protocol):
    """Turns batches into logits (`ModelRunner` or `PlainRunner`)."""

    name: str
    verifies_drafts: bool
    tokens_per_forward: int

    @property
    def cache(self) -> SlotCache:
        """The slots."""

    def forward(self, batch: Batch) -> Tensor:
        """Logits of the batch's wanted positions, [W, V], or [W, labels]."""


class Scheduler:
    """Runs requests in batches on one model and resolves their handles.

    Args:
        runner: Computes batches.
        tokenizer: The model's.
        end_ids: Tokens that end an answer.
        context: Context length; None without a limit.
        classifies: Whether the model answers with labels.
        batch_invariant: Run one sequence at a time, each computed from its start.
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

    @property
    def busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, handle: RequestHandle[Any]) -> None:
        """Queue a request: first come, first served. An invalid one fails alone."""
        try:
            self.waiting.append(self._sequence(handle))
        except Exception as error:  # of a grammar or a tokenizer
            handle.fail(error)

    def step(self) -> None:
        """Run one forward."""
        batch = self.schedule()
        if batch.sequences:
            logits = self.runner.forward(batch)
            self.process(batch, logits)

    def fail(self, error: BaseException) -> None:
        """End every request with an error."""
        lost = [*self.running, *self.waiting]
        for sequence in tuple(self.running):
            self._stop(sequence)
        self.waiting.clear()
        for sequence in lost:
            sequence.handle.fail(error)

    # --- schedule ------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """Drop cancelled requests, admit waiting ones, choose what to compute next."""
        self._drop_cancelled()
        self._reserve_memory()
        self._admit()
        if self.batch_invariant and self.running:
            self.running.append(self.running.pop(0))
            first = self.running[-1]
            return Batch([first], [first.chunk(self.runner.tokens_per_forward)])
        decoding = [s for s in self.running if s.remaining == 1]
        batch = Batch(decoding, [1] * len(decoding))
        budget = max(self.runner.tokens_per_forward - len(decoding), MIN_CHUNK)
        for sequence in self.running:
            if sequence.remaining > 1 and budget > 0:
                count = sequence.chunk(budget)
                is_first = len(batch.sequences) == len(decoding)
                if count <= budget or is_first:  # scores may need more than a forward has room for
                    batch.sequences.append(sequence)
                    batch.counts.append(count)
                    budget -= count
        return batch

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self.running if s.handle.cancelled]:
            self._stop(sequence)
            sequence.handle.fail()
        for sequence in [s for s in self.waiting if s.handle.cancelled]:
            self.waiting.remove(sequence)
            sequence.handle.fail()

    def _reserve_memory(self) -> None:
        """Sequences that no longer fit in memory beside the others wait again, first in line."""
        for sequence in reversed(self.running[:]):
            try:
                self.runner.cache.reserve(len(sequence.tokens))
            except NotEnoughMemoryError:
                self._stop(sequence)
                self.waiting.appendleft(sequence)

    def _admit(self) -> None:
        for sequence in list(self.waiting):
            if self.running and not self.runner.cache.shaped:
                return  # the first forward tells how much memory a sequence takes
            if self._prefix_is_being_computed(sequence):
                continue
            try:
                limit = 0 if self.batch_invariant else len(sequence.tokens) - sequence.wanted
                slot = self.runner.cache.allocate(sequence.tokens, limit)
            except NotEnoughMemoryError as error:
                if self.running:
                    return  # there may be memory once they have left
                self.waiting.remove(sequence)
                sequence.handle.fail(error)
                continue
            if slot is None:
                return
            self.waiting.remove(sequence)
            sequence.start(slot)
            self.running.append(sequence)

    def _prefix_is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a long common prefix, which is copied later."""
        computing = [s for s in self.running if s.remaining >= WORTH_WAITING]
        if not computing or self.batch_invariant:
            return False
        cached = self.runner.cache.cached(sequence.tokens)
        return any(
            common_prefix(s.tokens, sequence.tokens) - max(cached, len(s.slot.tokens))
            >= WORTH_WAITING
            for s in computing
        )

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.runner.cache.release(sequence.slot)

    # --- process -------------------------------------------------------------------------

    def process(self, batch: Batch, logits: Tensor) -> None:
        """Choose tokens and read scores from logits [W, V]; resolve the requests that end."""
        generating: list[tuple[Sequence, range]] = []
        first = 0
        for sequence, wanted in zip(batch.sequences, batch.wanted, strict=True):
            places = range(first, first + wanted)
            first += wanted
            if not wanted:
                continue  # more of its prompt is to come
            if isinstance(sequence.request, GenerateRequest):
                generating.append((sequence, places))
            else:
                rows = logits[places.start : places.stop]
                self._finish(sequence, self._score(sequence, sequence.request, rows))
        if generating:
            self._generate(generating, logits)

    def _generate(self, generating: list[tuple[Sequence, range]], logits: Tensor) -> None:
        places = [place for _, places in generating for place in places]
        if len(places) < len(logits):
            logits = logits.index_select(0, on_device(places, logits.device))
        owners = [s for s, places in generating for _ in places]
        for row, sequence in enumerate(owners):
            if sequence.grammar is not None:
                sequence.grammar.restrict(logits[row])
        requests = [s.request for s in owners]
        samplings = [r.sampling for r in requests if isinstance(r, GenerateRequest)]
        tokens, logprobs = choose(logits, samplings, [s.random for s in owners])
        first = 0
        for sequence, wanted in generating:
            end = first + len(wanted)
            if sequence.grammar is not None:
                tokens[first], logprobs[first] = sequence.grammar.take(tokens[first])
            finish = sequence.accept(tokens[first:end], logprobs[first:end])
            first = end
            if finish is not None:
                self._finish(sequence, sequence.generated(finish))

    def _score(self, sequence: Sequence, request: ScoreRequest, logits: Tensor) -> ScoreOutput:
        """The output of a `ScoreRequest` from its logits, [W, V], or [1, labels]."""
        if self.classifies:
            return sequence.scored(logits=logits[-1].float().tolist())
        if request.choices:
            return sequence.scored(logits=logits[-1][list(request.choices)].float().tolist())
        scored = on_device(request.ids[request.start :], logits.device)  # [n]
        if not len(scored):
            return sequence.scored()
        spread = logits[-len(scored) :].float().log_softmax(dim=-1)  # [n, V]
        entropies = torch.special.entr(spread.exp()).sum(dim=-1)
        return sequence.scored(
            logprobs=spread.gather(-1, scored[:, None]).squeeze(-1).tolist(),
            entropies=entropies.tolist(),
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
            # A token is scored by the logits at the one before it.
            return Sequence(handle, wanted=scored, unread=1)
        rule = None
        if request.separators or request.stop or request.spans:
            rule = stop_rule(self.tokenizer, request.separators, request.stop, request.spans)
        return Sequence(
            handle,
            self.end_ids,
            self.context,
            stop_rule=rule,
            grammar=self._grammar(request),
            draft_tokens=self._draft_tokens(request),
        )

    def _draft_tokens(self, request: GenerateRequest) -> abc.Sequence[int]:
        """The draft tokens that can be verified: none under a grammar or on the plain runner."""
        if request.grammar is not None or not self.runner.verifies_drafts:
            return ()
        room = request.max_tokens
        if self.context is not None:
            room = min(room, self.context - len(request.ids))
        return request.draft_tokens[:room]

    def _grammar(self, request: GenerateRequest) -> GrammarState | None:
        grammar = request.grammar
        if grammar is None:
            return None
        room = grammar.room
        if self.context is not None:
            room = min(room, self.context - len(request.ids))
        return GrammarState(self.tokenizer, self.end_ids, grammar, request.ids, room)
