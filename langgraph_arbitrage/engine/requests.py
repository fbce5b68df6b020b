"""Requests to an engine and their outputs: plain data, token ids in and token ids out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from langgraph_arbitrage.errors import RequestCancelledError
from langgraph_arbitrage.models.generation_config import NO_RULES, TokenRules

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

FinishReason = Literal["separator", "end", "stop", "length", "context", "verified"]
"""Why a step ended: a separator (or the closing text of a span), an end-of-answer token (or the end
of the grammar), a stop string, the request's token limit, or the model's context length.
`verified`: the step is incomplete, because the request was `verify_only`."""

TokenListener = Callable[[int], None]
"""Called with each new token id on the engine's thread. It blocks decoding until it returns."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. The default is greedy."""

    temperature: float = 0.0
    """0 takes the most probable token. Above 0, divides the logits before sampling."""
    top_p: float = 1.0
    """Keeps the smallest set of most probable tokens whose probabilities sum to `top_p`."""
    top_k: int = 0
    """Number of most probable tokens to keep. 0 keeps all tokens."""
    min_p: float = 0.0
    """Keeps tokens with at least `min_p` times the highest probability. 0 keeps all tokens."""
    rules: TokenRules = NO_RULES
    """Penalties and forbidden tokens. They apply to greedy decoding too."""
    seed: int = 0
    """Seed of the request's own random number generator. Other requests do not affect it."""


@dataclass(frozen=True)
class Grammar:
    """A grammar that the answer must match from its first token."""

    lark: str
    """The grammar in llguidance's Lark syntax. A JSON schema is written as `%json {...}`."""
    start: int
    """Index in `GenerateRequest.ids` at which the answer begins."""
    room: int
    """Maximum number of further tokens of the answer. Near this limit, tokens are replaced if
    necessary, so that the answer still matches the grammar when it ends."""


@dataclass(frozen=True)
class GenerateRequest:
    """A request to continue `ids` up to a separator, a stop string, an end token or a limit."""

    ids: Sequence[int]
    """Token ids of the prompt and the answer so far. Cached tokens are not computed again."""
    max_tokens: int
    """Maximum number of tokens to generate."""
    separators: tuple[str, ...] = ()
    """Strings that end the step. Each must lie completely within the step. Inside fenced code and
    LaTeX displays, separators do not end the step."""
    min_step_tokens: int = 1
    """Minimum number of tokens of a step that a separator ends. Earlier separators are ignored."""
    block: str = ""
    """Opening mark of the code block or LaTeX display that is open at the end of `ids`, or ""."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer. They may begin in `tail`."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, besides the model's own end tokens."""
    tail: str = ""
    """Last characters of the answer before this step, for stop strings that span two steps."""
    sampling: SamplingParams = SamplingParams()
    spans: tuple[tuple[str, str], ...] = ()
    """Opening and closing strings of spans that are never split, such as tool calls. A separator
    inside a span does not end the step; the closing string does."""
    grammar: Grammar | None = None
    """Grammar that the answer must match."""
    answer_start: int = 0
    """Index in `ids` at which the answer begins, for the rules of `sampling`."""
    draft_tokens: Sequence[int] = ()
    """Tokens proposed by another model. This model verifies several of them in one forward and
    accepts them up to the first token that differs from its own choice, also when sampling. The
    output is the same as without draft tokens. Ignored under a grammar and by the plain runner."""
    verify_only: bool = False
    """Verify and score all draft tokens in one forward, then end. The output contains the accepted
    draft tokens and the model's own next token. Under a grammar, the draft tokens are only scored,
    and the output contains no tokens."""
    begun: GenerateOutput | None = None
    """Output of a `verify_only` request for the same step. Generation continues after its
    tokens."""


@dataclass(frozen=True)
class GenerateOutput:
    """A generated step."""

    ids: list[int]
    """Generated token ids, including the end token if there is one."""
    logprobs: list[float]
    """Log-probability of each generated token in nats, under the unmodified distribution
    (temperature 1). Empty if a server does not report them."""
    finish: FinishReason
    computed_tokens: int
    """Number of tokens that the model computed for this request."""
    cached_tokens: int
    """Number of tokens of the request that were in the KV cache."""
    accepted_draft_tokens: int
    """Number of draft tokens that were accepted instead of being decoded one by one."""
    seconds: float
    """Seconds from submission to output, including queueing."""
    draft_scores: ScoreOutput | None = None
    """Scores of the draft tokens under this model, if the request was `verify_only`."""


@dataclass(frozen=True)
class ScoreRequest:
    """A request to score `ids`.

    A classifier returns the logits of its labels at the last token. A causal LM returns the
    log-probability and entropy of each token from `start`, or the logits of `choices` as the next
    token.
    """

    ids: Sequence[int]
    """Token ids of the prompt and the text to score."""
    start: int = 1
    """Index of the first scored token (causal LM). At least 1, since token 0 has no context."""
    choices: tuple[int, ...] = ()
    """Token ids to compare as the next token after `ids` (causal LM)."""


@dataclass(frozen=True)
class ScoreOutput:
    """The output of a `ScoreRequest`."""

    logits: list[float]
    """Logits at the last token, one per label (classifier) or per choice (causal LM)."""
    logprobs: list[float]
    """Log-probability of each of `ids[start:]` in nats (causal LM without choices)."""
    entropies: list[float]
    """Entropy in nats of the distribution at each of `ids[start:]` (causal LM without choices)."""
    computed_tokens: int
    """Number of tokens that the model computed for this request."""
    cached_tokens: int
    """Number of tokens of the request that were in the KV cache."""
    seconds: float
    """Seconds from submission to output, including queueing."""
    ranks: list[int] = field(default_factory=list)
    """Number of tokens more probable than each of `ids[start:]` (causal LM without choices)."""


OutputT = TypeVar("OutputT", GenerateOutput, ScoreOutput)


class RequestHandle(Generic[OutputT]):
    """A submitted request: its future, its cancel flag and its listener.

    `future` is marked as running from the start, so `Future.cancel` has no effect. Use `cancel()`,
    which sets a flag that the engine checks after every token.

    Args:
        request: The request.
        listener: Called with each new token id on the engine's thread.
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
        """Stop the request within one token. The future then raises `RequestCancelledError`."""
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
        """Set the output. Only the engine calls this."""
        if not self.future.done():
            self.future.set_result(output)

    def fail(self, error: BaseException | None = None) -> None:
        """Set the error. Only the engine calls this. Default: `RequestCancelledError`."""
        if not self.future.done():
            self.future.set_exception(error or RequestCancelledError("the request was cancelled"))
