"""The engine: one model, asked for steps and scores in token ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

from langgraph_arbitrage.engine.checkpoint import (
    check_device_map,
    check_memory,
    choose_device,
    choose_dtype,
    context_length,
    end_ids,
    load_config,
)
from langgraph_arbitrage.engine.constraint import check_grammar, grammar_marks
from langgraph_arbitrage.engine.footprint import Footprint, footprint
from langgraph_arbitrage.engine.quantization import check_quantization
from langgraph_arbitrage.engine.requests import Reading, Score, Write, Written
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.ticket import Listener, Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer, load_tokenizer
from langgraph_arbitrage.engine.worker import Worker
from langgraph_arbitrage.errors import ContextLengthError, EngineClosedError, SettingsError
from langgraph_arbitrage.forks import ForkLock

if TYPE_CHECKING:
    from langgraph_arbitrage.engine.remote_worker import RemoteWorker

__all__ = ["Engine"]


class Engine:
    """A model and its worker. Usable from any number of threads at a time.

    Making one checks the checkpoint, the device and the free memory; the weights are loaded at
    the first request, on the worker's thread.

    Example:
        >>> from langgraph_arbitrage import embedded
        >>> from langgraph_arbitrage.engine import Engine, ModelSpec, Write
        >>> engine = Engine(ModelSpec(embedded.DRAFT))
        >>> ids = engine.tokenizer.render([{"role": "user", "content": "Hello!"}])
        >>> engine.submit(Write(ids, max_tokens=8)).result().finish in ("end", "length")
        True
        >>> engine.close()

    Raises:
        CheckpointError: The path is no model or its weights are not safetensors.
        MissingExtraError: It is quantized by a package that is not installed.
        NotEnoughMemoryError: The model does not fit its device.
        SettingsError: The device is not there.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.config = load_config(spec)
        device = choose_device(spec)
        check_device_map(spec)
        check_quantization(spec, self.config)
        check_memory(spec, device, choose_dtype(spec, device))
        self.context = context_length(self.config)
        """Most tokens that the model reads; None without a limit."""
        self.vocabulary: int | None = getattr(self.config.get_text_config(), "vocab_size", None)
        """How many tokens it knows; None where its config does not tell."""
        self._lock = ForkLock()
        self._started: Worker | RemoteWorker | None = None
        self._closed = False

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; loading it does not load the model."""
        return load_tokenizer(self.spec)

    @property
    def _worker(self) -> Worker | RemoteWorker:
        with self._lock:
            # A forked child has none of its parent's threads: it starts its own worker.
            if self._started is None or self._started.pid != os.getpid():
                if self._closed:
                    raise EngineClosedError(f"{self.spec.name} was closed")
                self._started = self._new_worker()
            return self._started

    def _new_worker(self) -> Worker | RemoteWorker:
        return Worker(self.spec, self.tokenizer, self._end_ids, self.context)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        return end_ids(self.spec, self.config, self.tokenizer.hf.eos_token_id)

    @property
    def backend(self) -> str | None:
        """`slot` or `plain`, once the model is loaded; `remote` where a server has it."""
        return self._started.backend_name if self._started else None

    @property
    def footprint(self) -> Footprint | None:
        """What the model moves and computes for a token, once it is loaded here."""
        model = self._started.model if isinstance(self._started, Worker) else None
        return footprint(model) if model is not None else None

    @overload
    def submit(
        self, request: Write, listener: Listener | None = None, *, under_way: bool = False
    ) -> Ticket[Written]: ...
    @overload
    def submit(
        self, request: Score, listener: Listener | None = None, *, under_way: bool = False
    ) -> Ticket[Reading]: ...
    def submit(
        self,
        request: Write | Score,
        listener: Listener | None = None,
        *,
        under_way: bool = False,
    ) -> Ticket[Written] | Ticket[Reading]:
        """Queue a request: first come, first served.

        Args:
            request: What is asked.
            listener: Called with each new token id on a thread of the worker.
            under_way: It goes on with an answer that was begun: never refused for a full queue.

        Raises:
            ContextLengthError: The request's ids do not fit the context.
            EngineBusyError: The spec's `max_queue` requests wait already.
            EngineClosedError: The engine was closed.
            GrammarError: The request's grammar cannot be compiled.
            MissingExtraError: It has a grammar, and llguidance is not installed.
        """
        self._check(request)
        if isinstance(request, Write) and request.grammar is not None:
            self.check_grammar(request.grammar.lark)
        ticket: Ticket[Written] = Ticket(request, listener)
        self._worker.put(ticket, under_way=under_way)
        return ticket

    def grammar_marks(self) -> dict[str, int]:
        """Tokens that a grammar has to name by their ids, as `<[id]>`, by their text.

        Raises:
            GrammarError: The tokenizer is none that llguidance can read.
            MissingExtraError: llguidance is not installed.
        """
        return grammar_marks(self.tokenizer, self._end_ids)

    def check_grammar(self, lark: str) -> None:
        """Compile a grammar on the caller's thread, so that the worker finds it compiled.

        Raises:
            GrammarError: It cannot be compiled.
            MissingExtraError: llguidance is not installed.
        """
        check_grammar(self.tokenizer, self._end_ids, lark)

    def _check(self, request: Write | Score) -> None:
        n = len(request.ids)
        if not n:
            raise SettingsError(f"{self.spec.name} was asked to go on from no tokens at all")
        self._check_ids(request.ids)
        if isinstance(request, Score) and not 1 <= request.start <= n:
            raise SettingsError(f"start={request.start} is outside the {n} tokens to score")
        if isinstance(request, Write):
            if request.max_tokens < 1:
                raise SettingsError(f"max_tokens must be at least 1, not {request.max_tokens}")
            patterns = (
                *request.separators,
                *request.stop,
                *(p for span in request.spans for p in span),
            )
            if request.proposal:
                self._check_ids(request.proposal)
            if "" in patterns:
                raise SettingsError(
                    "a separator, a stop string or a mark of a span is empty; leave it out"
                )
        room = n + isinstance(request, Write)
        if self.context is not None and room > self.context:
            raise ContextLengthError(
                f"{n} tokens do not fit {self.spec.name}, which reads {self.context}. "
                "Shorten the conversation or use a model with a longer context."
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        """Refuse what would end the worker, and with it the requests of others."""
        largest = max(ids)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise SettingsError(
                f"token {largest} is none of the {self.vocabulary} that {self.spec.name} knows: "
                "a model with the same tokenizer and more tokens has written it. Take models "
                "with as many, or a lower temperature."
            )

    def close(self) -> None:
        """Unload the model; whoever waits gets `EngineClosedError`."""
        with self._lock:
            self._closed = True
            worker = self._started
        if worker is not None:
            worker.close()
