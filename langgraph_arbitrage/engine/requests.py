"""Requests to an engine and their outputs: plain data, token ids in and token ids out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from langgraph_arbitrage.errors import RequestCancelledError

__all__ = [
    "FinishReason",
    "GenerateOutput",
    "GenerateRequest",
    "Grammar",
    "RequestHandle",
    "SamplingParams",
    "ScoreOutput",
    "ScoreRequest",
    "TokenListener",
]

FinishReason = Literal["separator", "end", "stop", "length", "context"]
"""Why a step ended: a separator (or the closing text of a span), an end-of-answer token (or the end
of the grammar), a stop string, the request's token limit, or the model's context length."""

TokenListener = Callable[[int], None]
"""Called with each new token id on the engine's thread. It must return quickly."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. The default is greedy."""

    temperature: float = 0.0
    """0 takes the most probable token. Above 0, divides the logits before sampling."""
    top_p: float = 1.0
    """Keeps the smallest set of tokens whose probabilities reach this sum."""
    top_k: int = 0
    """Keeps this many most probable tokens. 0 keeps all."""
    seed: int = 0
    """Seed of the request's own random stream, which is independent of the batch."""


@dataclass(frozen=True)
class Grammar:
    """A grammar that the answer must match from its first token on."""

    lark: str
    """The grammar in llguidance's Lark syntax. JSON schemas are written as `%json {...}`."""
    start: int
    """Index in `GenerateRequest.ids` at which the answer begins."""
    room: int
    """Maximum tokens until the end of the answer. Near it, the grammar is steered to close."""


@dataclass(frozen=True)
class GenerateRequest:
    """Continue `ids` up to a separator, a stop string, an end token or a limit."""

    ids: Sequence[int]
    """All token ids so far, prompt included. Cached ones are not computed again."""
    max_tokens: int
    """Maximum tokens to generate."""
    separators: tuple[str, ...] = ()
    """A step ends once its own text contains one of these."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer. They may begin in `tail`."""
    tail: str = ""
    """The last characters of the answer before this step, for stop strings that straddle steps."""
    sampling: SamplingParams = SamplingParams()
    spans: tuple[tuple[str, str], ...] = ()
    """Opening and closing texts of spans that are never split (tool calls). A separator inside a
    span does not end the step; the closing text does."""
    grammar: Grammar | None = None
    """The grammar that the answer must match."""
    draft_tokens: Sequence[int] = ()
    """Tokens proposed by another model. They are verified in one forward and accepted as far as
    this model would have generated the same, sampled tokens included, so they never change the
    output. Ignored under a grammar and by the plain runner."""


@dataclass(frozen=True)
class GenerateOutput:
    """A generated step."""

    ids: list[int]
    """The new token ids, an end token included."""
    logprobs: list[float]
    """Log-probability of each in nats, under the unmodified distribution (temperature 1)."""
    finish: FinishReason
    computed_tokens: int
    """Tokens fed through the model for this request."""
    cached_tokens: int
    """Tokens of the request found in the KV cache."""
    accepted_draft_tokens: int
    """Draft tokens that were accepted, and so not decoded one by one."""
    seconds: float
    """From submission to output, queueing included."""


@dataclass(frozen=True)
class ScoreRequest:
    """Read `ids` and report the model's judgement.

    A classifier answers with the logits of its labels at the last token. A causal LM answers with
    the log-probability and the entropy of each token from `start` on, or, with `choices`, with
    their logits as the next token after `ids`.
    """

    ids: Sequence[int]
    start: int = 1
    """First scored token (causal LM). At least 1: token 0 has no context."""
    choices: tuple[int, ...] = ()
    """Token ids that are weighed against each other as the next token (causal LM)."""


@dataclass(frozen=True)
class ScoreOutput:
    """The result of a `ScoreRequest`."""

    logits: list[float]
    """At the last token: one logit per label (classifier) or per choice (causal LM)."""
    logprobs: list[float]
    """Causal LM: log-probability of each of `ids[start:]`, in nats. Empty for a classifier."""
    entropies: list[float]
    """Causal LM: entropy of the distribution of each of `ids[start:]`, in nats."""
    computed_tokens: int
    cached_tokens: int
    seconds: float


OutputT = TypeVar("OutputT", GenerateOutput, ScoreOutput)


class RequestHandle(Generic[OutputT]):
    """A submitted request: its future, its cancel flag and its listener.

    `future` is marked as running from the start, so that `Future.cancel` has no effect. `cancel()`
    sets a flag that the engine checks after every token.
    """

    def __init__(
        self, request: GenerateRequest | ScoreRequest, listener: TokenListener | None = None
    ) -> None:
        self.request = request
        self.listener = listener
        self.future: Future[OutputT] = Future()
        self.future.set_running_or_notify_cancel()
        self.cancelled = False
        self.submitted = time.perf_counter()

    def cancel(self) -> None:
        """Stop within one token. The future then raises `RequestCancelledError`."""
        self.cancelled = True

    def result(self, timeout: float | None = None) -> OutputT:
        """Wait for the output. Interrupting the wait cancels the request."""
        try:
            return self.future.result(timeout)
        except BaseException:
            self.cancel()
            raise

    @property
    def seconds(self) -> float:
        """Seconds since submission."""
        return time.perf_counter() - self.submitted

    def resolve(self, output: OutputT) -> None:
        """Set the output (engine only)."""
        if not self.future.done():
            self.future.set_result(output)

    def fail(self, error: BaseException | None = None) -> None:
        """Set the error; by default, that the request was cancelled (engine only)."""
        if not self.future.done():
            self.future.set_exception(error or RequestCancelledError("the request was cancelled"))
