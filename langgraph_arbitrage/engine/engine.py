"""The engine of one model: validates and queues requests. A process shares equal engines."""

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
from langgraph_arbitrage.models.generation_config import GenerationDefaults, generation_defaults
from langgraph_arbitrage.models.quantization import check_quantization
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.models.tokenizer import Tokenizer, load_tokenizer
from langgraph_arbitrage.remote.address import parse_address
from langgraph_arbitrage.utils.fork_lock import ForkLock

if TYPE_CHECKING:
    from langgraph_arbitrage.remote.worker import RemoteWorker

__all__ = ["Engine", "acquire", "release"]

_registry_lock = threading.RLock()
_engines: dict[ModelSpec, Engine] = {}
_users: dict[ModelSpec, int] = {}


class Engine:
    """Generates and scores steps with one model. Thread-safe.

    The constructor checks the checkpoint, the device and the free memory. The worker thread loads
    the weights at the first request.

    Args:
        spec: The model.

    Example:
        >>> from langgraph_arbitrage import embedded
        >>> from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec
        >>> engine = Engine(ModelSpec(embedded.DRAFT))
        >>> ids = engine.tokenizer.render([{"role": "user", "content": "Hello!"}])
        >>> engine.submit(GenerateRequest(ids, max_tokens=8)).result().finish in ("end", "length")
        True
        >>> engine.close()

    Raises:
        CheckpointError: The path is not a checkpoint, or it has no safetensors weights.
        MissingExtraError: The package of the quantization method is not installed.
        NotEnoughMemoryError: The model does not fit its device.
        SettingsError: The device is not available.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.config = load_config(spec)
        device = choose_device(spec)
        check_device_map(spec)
        check_quantization(spec, self.config)
        check_memory(spec, device, choose_dtype(spec, device))
        self.context = context_length(self.config)
        """Context length of the model in tokens. None: unlimited."""
        self.vocab_size: int | None = getattr(self.config.get_text_config(), "vocab_size", None)
        """Size of the vocabulary. None if the config does not contain it."""
        self._lock = ForkLock()
        self._started: Worker | RemoteWorker | None = None
        self._closed = False

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. Loading it does not load the model."""
        return load_tokenizer(self.spec)

    @property
    def _worker(self) -> Worker | RemoteWorker:
        with self._lock:
            # A forked process does not inherit threads, so it needs a new worker.
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

    @cached_property
    def generation_defaults(self) -> GenerationDefaults:
        """Generation settings that the checkpoint's generation_config.json recommends.

        Raises:
            CheckpointError: The file contains an invalid value.
        """
        return generation_defaults(self.spec, self.config)

    @property
    def backend(self) -> str | None:
        """Kind of the runner: `slot` (batches), `plain` (one sequence at a time) or `remote`.

        None before the first request is served.
        """
        return self._started.backend_name if self._started else None

    @property
    def footprint(self) -> Footprint | None:
        """Sizes of the model. None if the model is not loaded or runs on a server."""
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
        """Queue a request. Requests are served in order of arrival.

        Args:
            request: The request.
            listener: Called with each new token id on the worker thread.
            continues: Whether the request continues an answer in progress. Such a request is
                accepted even if the queue is full.

        Returns:
            A handle that waits for the output or cancels the request.

        Raises:
            ContextLengthError: The request does not fit the model's context.
            EngineBusyError: The queue is full (`max_queue`).
            EngineClosedError: The engine was closed.
            GrammarError: The request's grammar cannot be compiled.
            MissingExtraError: The request has a grammar, and llguidance is not installed.
            SettingsError: The request contains an invalid value.
        """
        self._check(request)
        if isinstance(request, GenerateRequest) and request.grammar is not None:
            self.check_grammar(request.grammar.lark)
        handle: RequestHandle[GenerateOutput] = RequestHandle(request, listener)
        self._worker.put(handle, continues=continues)
        return handle

    def grammar_marks(self) -> dict[str, int]:
        """Return a dict from the text of each special token to its id.

        A grammar must write a special token as `<[id]>`.

        Raises:
            GrammarError: llguidance does not support the tokenizer.
            MissingExtraError: llguidance is not installed.
        """
        return grammar_marks(self.tokenizer, self._end_ids)

    def check_grammar(self, lark: str) -> None:
        """Compile a grammar and cache the result, so that the worker thread need not compile it.

        Args:
            lark: The grammar in llguidance's Lark syntax.

        Raises:
            GrammarError: The grammar cannot be compiled.
            MissingExtraError: llguidance is not installed.
        """
        check_grammar(self.tokenizer, self._end_ids, lark)

    def _check(self, request: GenerateRequest | ScoreRequest) -> None:
        """Raise an error for an invalid value or a request that exceeds the context length."""
        n = len(request.ids)
        if not n:
            raise SettingsError(
                f"The request to {self.spec.name} contains no tokens. `ids` needs at least one."
            )
        self._check_ids(request.ids)
        if isinstance(request, ScoreRequest) and not 1 <= request.start <= n:
            raise SettingsError(
                f"start={request.start} is not between 1 and the number of tokens ({n})."
            )
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
                    "A separator, a stop string or a text of a span is empty. Remove it."
                )
        required = n + isinstance(request, GenerateRequest)
        if self.context is not None and required > self.context:
            raise ContextLengthError(
                f"{n} tokens do not fit {self.spec.name}, whose context length is {self.context}. "
                "Shorten the conversation, or use a model with a longer context."
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        """Raise `SettingsError` for invalid token ids.

        An invalid id would make the forward fail for all requests of the batch.
        """
        largest, smallest = max(ids), min(ids)
        if smallest < 0:
            raise SettingsError(f"Token id {smallest} is negative. Token ids start at 0.")
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise SettingsError(
                f"Token id {largest} is outside the vocabulary of {self.spec.name}, which has "
                f"{self.vocab_size} tokens. Probably a model with the same tokenizer and more "
                "embeddings generated the id. Use models with the same vocabulary size, or a lower "
                "temperature."
            )

    def close(self) -> None:
        """Unload the model. Pending requests fail with `EngineClosedError`."""
        with self._lock:
            self._closed = True
            worker = self._started
        if worker is not None:
            worker.close()


def acquire(spec: ModelSpec) -> Engine:
    """Return the shared engine of a spec, and create it if necessary.

    Call `release` once for each call of `acquire`.
    """
    with _registry_lock:
        engine = _engines.get(spec)
        if engine is None:
            engine = _engines[spec] = _new_engine(spec)
        _users[spec] = _users.get(spec, 0) + 1
        return engine


def _new_engine(spec: ModelSpec) -> Engine:
    """Create the engine of a local or remote model."""
    address = parse_address(spec.path)
    if address is None:
        return Engine(spec)
    from langgraph_arbitrage.remote.engine import RemoteEngine

    return RemoteEngine(spec, address)


def release(engine: Engine) -> None:
    """Release an engine from `acquire`. The last release closes the engine."""
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
    """Close all engines at exit. A thread that still runs native code would abort the process."""
    with _registry_lock:
        engines = list(_engines.values())
        _engines.clear()
        _users.clear()
    for engine in engines:
        engine.close()


if hasattr(os, "register_at_fork"):
    # Hold the lock during a fork, so that the child gets consistent dictionaries. In the child,
    # each engine starts a new worker at its first request.
    os.register_at_fork(
        before=_registry_lock.acquire,
        after_in_parent=_registry_lock.release,
        after_in_child=_registry_lock.release,
    )
