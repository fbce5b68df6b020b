"""What is sent to a server of completions and what comes back, in the forms that servers have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_arbitrage.engine.requests import GenerateRequest
from langgraph_arbitrage.errors import ContextLengthError, EngineError
from langgraph_arbitrage.remote.address import Address

__all__ = [
    "EXACT",
    "FAILED",
    "NEUTRAL",
    "Broken",
    "Chunk",
    "Refused",
    "chunk_of",
    "options_of",
    "said",
]

EXACT: dict[str, Any] = {
    "logprobs": 1,
    "extra_body": {"return_token_ids": True, "add_special_tokens": False},
}
"""What servers that take token ids tell, too: the ids and log-probabilities of what they write."""
NEUTRAL: dict[str, Any] = {"min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
"""What vLLM and SGLang would take from the model's generation_config, and llama.cpp (which has
another name for the penalty) from defaults of its own: left unsaid, a server samples otherwise
than asked, and some even at temperature 0."""
MOST_STOPS = 4  # OpenAI and TGI refuse more; stop strings are looked for here anyway
FAILED = ("abort", "error", "cancelled", "timeout", "content_filter")
"""Reasons to end that are no end of an answer."""


class Broken(Exception):  # noqa: N818 - it is caught in the engine: another try may mend it
    """A request did not come to its end, and another try may."""


class Refused(Exception):  # noqa: N818 - it is caught in the engine
    """The server will not do what was asked, however often it is asked."""

    def __init__(self, address: Address, status: int, said: str) -> None:
        self.status = status
        self.error = _kind(status, said)(f"{address} refuses: status {status}: {said}")

    @property
    def by_form(self) -> bool:
        """Whether another form of the request may be taken."""
        return self.status in (400, 422)


@dataclass(frozen=True)
class Chunk:
    """A part of a completion."""

    text: str
    ids: Sequence[int] | None
    """Its tokens, where the server tells them."""
    logprobs: Sequence[float] | None
    finish: str | None
    """Why it ended, with the last part."""
    cached: int | None
    """Tokens of the prompt that the server had in its cache, where it tells."""


def options_of(
    request: GenerateRequest, vocabulary: int, *, ids: bool, neutral: bool
) -> dict[str, Any]:
    """The fields of a request beside model, prompt and length.

    Args:
        request: Its sampling and stop strings are used.
        vocabulary: How many tokens there are.
        ids: Whether the server takes token ids and is asked for them.
        neutral: Whether it takes fields that OpenAI's interface has not.
    """
    sampling = request.sampling
    options: dict[str, Any] = {"temperature": sampling.temperature}
    extra: dict[str, Any] = dict(NEUTRAL) if neutral else {}
    if request.stop:
        options["stop"] = list(request.stop[:MOST_STOPS])
    if sampling.temperature:
        options["seed"] = sampling.seed % 2**31
        if sampling.top_p < 1 or neutral:
            options["top_p"] = sampling.top_p  # TGI refuses a 1, which is its default
        if neutral:
            extra["top_k"] = sampling.top_k or vocabulary  # servers disagree on how to say "all"
    if ids:
        options["logprobs"] = EXACT["logprobs"]
        extra |= EXACT["extra_body"]
    return options | {"extra_body": extra} if extra else options


def chunk_of(part: Any) -> Chunk:
    """A part of the stream, as the client parsed it.

    Raises:
        Broken: It tells of a failure.
    """
    choices = getattr(part, "choices", None)
    if not choices:
        if getattr(part, "error", None):
            raise Broken(str(part.error))
        return Chunk("", None, None, None, None)
    choice = choices[0]
    logprobs = getattr(choice, "logprobs", None)
    details = getattr(getattr(part, "usage", None), "prompt_tokens_details", None)
    finish = getattr(choice, "finish_reason", None)
    return Chunk(
        text=getattr(choice, "text", None) or "",
        ids=getattr(choice, "token_ids", None),
        logprobs=getattr(logprobs, "token_logprobs", None),  # llama.cpp has those of a chat
        finish=finish,
        cached=getattr(details, "cached_tokens", None),
    )


def said(error: Any) -> str:
    """What the server said, in one line."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return " ".join(str(body or error).split())[:500]


def _kind(status: int, told: str) -> type[EngineError | ContextLengthError]:
    """Servers have no code in common for a prompt that is too long."""
    long = "context" in told or "too long" in told or ("tokens" in told and "must be <=" in told)
    return ContextLengthError if long and status in (400, 413, 422) else EngineError
