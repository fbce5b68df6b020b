"""The engine: one model, asked for steps and scores in token ids."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

from langgraph_arbitrage.decoding.grammar import check_grammar, grammar_marks
from langgraph_arbitrage.engine.footprint import Footprint, footprint
from langgraph_arbitrage.engine.requests import (
    GenerateOutput,
    GenerateRequest,
    RequestHandle,
    ScoreOutput,
    ScoreRequest,
    TokenListener,
)
from langgraph_arbitrage.engine.worker import Worker
from langgraph_arbitrage.errors import ContextLengthError, EngineClosedError, SettingsError
from langgraph_arbitrage.models.checkpoint import (
    check_device_map,
    check_memory,
    choose_device,
    choose_dtype,
    context_length,
    end_ids,
    load_config,
)
from langgraph_arbitrage.models.quantization import check_quantization
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.models.tokenizer import Tokenizer, load_tokenizer
from langgraph_arbitrage.remote.address import address_of
from langgraph_arbitrage.utils.fork_lock import ForkLock

if TYPE_CHECKING:
    from langgraph_arbitrage.remote.worker import RemoteWorker

__all__ = ["Engine", "acquire", "release"]

_registry_lock = threading.RLock()
_engines: dict[ModelSpec, Engine] = {}
_users: dict[ModelSpec, int] = {}


class Engine:
    """A model and its worker. Usable from any number of threads at a time.

    Making one checks the checkpoint, the device and the free memory; the weights are loaded at
    the first request, on the worker's thread.

    Example:
        >>> from langgraph_arbitrage import embedded
        >>> from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec
        >>> engine = Engine(ModelSpec(embedded.DRAFT))
        >>> ids = engine.tokenizer.render([{"role": "user", "content": "Hello!"}])
        >>> engine.submit(GenerateRequest(ids, max_tokens=8)).result().finish in ("end", "length")
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
        """`slot` (batched) or `plain` once the model is loaded; `remote` for one on a server."""
        return self._started.backend_name if self._started else None

    @property
    def footprint(self) -> Footprint | None:
        """What the model moves and computes for a token, once it is loaded here."""
        model = self._started.model if isinstance(self._started, Worker) else None
        return footprint(model) if model is not None else None

    @overload
    def submit(
        self,
        request: GenerateRequest,
        listener: TokenListener | None = None,
        *,
        continues: bool = False,
    ) -> RequestHandle[GenerateOutput]: ...
    @overload
    def submit(
        self,
        request: ScoreRequest,
        listener: TokenListener | None = None,
        *,
        continues: bool = False,
    ) -> RequestHandle[ScoreOutput]: ...
    def submit(
        self,
        request: GenerateRequest | ScoreRequest,
        listener: TokenListener | None = None,
        *,
        continues: bool = False,
    ) -> RequestHandle[GenerateOutput] | RequestHandle[ScoreOutput]:
        """Queue a request: first come, first served.

        Args:
            request: The request.
            listener: Called with each new token id on the engine's thread.
            continues: Whether it continues an answer in progress, which a full queue never
                refuses.

        Raises:
            ContextLengthError: The request's ids do not fit the context.
            EngineBusyError: The spec's `max_queue` requests wait already.
            EngineClosedError: The engine was closed.
            GrammarError: The request's grammar cannot be compiled.
            MissingExtraError: It has a grammar, and llguidance is not installed.
        """
        self._check(request)
        if isinstance(request, GenerateRequest) and request.grammar is not None:
            self.check_grammar(request.grammar.lark)
        handle: RequestHandle[GenerateOutput] = RequestHandle(request, listener)
        self._worker.put(handle, continues=continues)
        return handle

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

    def _check(self, request: GenerateRequest | ScoreRequest) -> None:
        n = len(request.ids)
        if not n:
            raise SettingsError(f"{self.spec.name} got a request without tokens")
        self._check_ids(request.ids)
        if isinstance(request, ScoreRequest) and not 1 <= request.start <= n:
            raise SettingsError(f"start={request.start} is outside the {n} tokens to score")
        if isinstance(request, ScoreRequest) and request.choices:
            self._check_ids(request.choices)
        if isinstance(request, GenerateRequest):
            if request.max_tokens < 1:
                raise SettingsError(f"max_tokens must be at least 1, not {request.max_tokens}")
            patterns = (
                *request.separators,
                *request.stop,
                *(p for span in request.spans for p in span),
            )
            if request.draft_tokens:
                self._check_ids(request.draft_tokens)
            if "" in patterns:
                raise SettingsError(
                    "a separator, a stop string or a mark of a span is empty; leave it out"
                )
        room = n + isinstance(request, GenerateRequest)
        if self.context is not None and room > self.context:
            raise ContextLengthError(
                f"{n} tokens do not fit {self.spec.name}, which reads {self.context}. "
                "Shorten the conversation or use a model with a longer context."
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        """Refuse ids that would end the worker, and with it the requests of others."""
        largest, smallest = max(ids), min(ids)
        if smallest < 0:
            raise SettingsError(f"token {smallest} is negative; token ids are 0 or more")
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise SettingsError(
                f"token {largest} is none of the {self.vocabulary} that {self.spec.name} knows: "
                "a model with the same tokenizer and more tokens has written it. Take models "
                "with as many, or a lower temperature."
            )

    def close(self) -> None:
        """Unload the model; pending requests get `EngineClosedError`."""
        with self._lock:
            self._closed = True
            worker = self._started
        if worker is not None:
            worker.close()


def acquire(spec: ModelSpec) -> Engine:
    """The engine of a spec, shared by its users in this process; give it back with `release`."""
    with _registry_lock:
        engine = _engines.get(spec)
        if engine is None:
            engine = _engines[spec] = _new_engine(spec)
        _users[spec] = _users.get(spec, 0) + 1
        return engine


def _new_engine(spec: ModelSpec) -> Engine:
    """The engine of a local model, or of one on a server."""
    address = address_of(spec.path)
    if address is None:
        return Engine(spec)
    from langgraph_arbitrage.remote.engine import RemoteEngine

    return RemoteEngine(spec, address)


def release(engine: Engine) -> None:
    """Give an engine back; its last user closes it."""
    with _registry_lock:
        spec = engine.spec
        if _engines.get(spec) is not engine:
            return
        _users[spec] -= 1
        if _users[spec] > 0:
            return
        del _engines[spec], _users[spec]
    engine.close()


@atexit.register
def _close_all() -> None:
    """A thread in native code when the interpreter ends would abort the process."""
    with _registry_lock:
        engines = list(_engines.values())
        _engines.clear()
        _users.clear()
    for engine in engines:
        engine.close()


if hasattr(os, "register_at_fork"):
    # Held over the fork, so that the child finds the tables whole. An engine in the child starts
    # a worker of its own at its first request.
    os.register_at_fork(
        before=_registry_lock.acquire,
        after_in_parent=_registry_lock.release,
        after_in_child=_registry_lock.release,
    )
