"""Builds requests to a completions endpoint and parses responses of different servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from langgraph_arbitrage.engine.requests import GenerateRequest, SamplingParams
from langgraph_arbitrage.errors import ContextLengthError, EngineError, SettingsError
from langgraph_arbitrage.models.generation_config import NO_RULES
from langgraph_arbitrage.remote.address import ServerAddress

__all__ = [
    "FAILURE_REASONS",
    "NEUTRAL_SAMPLING",
    "TOKEN_ID_OPTIONS",
    "Chunk",
    "PromptScores",
    "RejectedError",
    "TransientError",
    "completion_options",
    "error_text",
    "parse_chunk",
    "parse_prompt_scores",
]

TOKEN_ID_OPTIONS: dict[str, Any] = {
    "logprobs": 1,
    "extra_body": {"return_token_ids": True, "add_special_tokens": False},
}
"""Fields that request token ids and log-probabilities of the generated text."""
NEUTRAL_SAMPLING: dict[str, Any] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
}
"""Sampling fields with values that have no effect. Requests contain them, because servers use other
defaults, some of them even at temperature 0. vLLM and SGLang use the model's generation config.
llama.cpp uses fixed values, and calls the repetition penalty `repeat_penalty`."""
MAX_STOP_STRINGS = 4  # OpenAI and TGI reject more. `RemoteStep` detects all stop strings locally.
FAILURE_REASONS = ("abort", "error", "cancelled", "timeout", "content_filter")
"""Finish reasons of an incomplete answer."""


class TransientError(Exception):
    """A request failed, but a retry may succeed. `Backoff` converts it to an `EngineError`."""


class RejectedError(Exception):
    """The server rejected a request, and would reject a retry too.

    Attributes:
        status: HTTP status code of the response.
        error: The public exception to raise, such as an `EngineError`.
    """

    def __init__(self, address: ServerAddress, status: int, message: str) -> None:
        self.status = status
        error_type = _error_type(status, message)
        self.error = error_type(f"{address} rejected the request: status {status}: {message}")

    @property
    def is_format_error(self) -> bool:
        """Whether the server may accept the request in another format."""
        return self.status in (400, 422)


@dataclass(frozen=True)
class Chunk:
    """A part of a streamed completion."""

    text: str
    token_ids: Sequence[int] | None
    """Token ids of the text. None if the server does not return them."""
    logprobs: Sequence[float] | None
    """Log-probability of each token in nats. None if the server does not return them."""
    finish_reason: str | None
    """Why the completion ended. None before the last chunk."""
    cached_tokens: int | None
    """Number of prompt tokens in the server's cache. None if the server does not return it."""


def completion_options(
    request: GenerateRequest, vocab_size: int, *, token_ids: bool, extra_fields: bool
) -> dict[str, Any]:
    """Build the fields of a completion request other than `model`, `prompt` and `max_tokens`.

    Args:
        request: Provides the sampling parameters and stop strings.
        vocab_size: Size of the vocabulary. It is sent as `top_k` if the request keeps all tokens.
        token_ids: Whether the server accepts and returns token ids.
        extra_fields: Whether the server accepts fields that are not in the OpenAI API.

    Raises:
        SettingsError: The server does not support a sampling setting of the request.
    """
    sampling = request.sampling
    _check_sampling(sampling, extra_fields=extra_fields)
    options: dict[str, Any] = {"temperature": sampling.temperature}
    extra: dict[str, Any] = dict(NEUTRAL_SAMPLING) if extra_fields else {}
    if request.stop:
        options["stop"] = list(request.stop[:MAX_STOP_STRINGS])
    if sampling.temperature:
        options["seed"] = sampling.seed % 2**31
        if sampling.top_p < 1 or extra_fields:
            options["top_p"] = sampling.top_p  # omit the default 1, which TGI rejects
        if extra_fields:
            # Servers use different values to disable top_k, but all accept the vocabulary size.
            extra["top_k"] = sampling.top_k or vocab_size
            extra["min_p"] = sampling.min_p
    if extra_fields and sampling.rules.repetition_penalty != 1:
        extra["repetition_penalty"] = extra["repeat_penalty"] = sampling.rules.repetition_penalty
    if token_ids:
        options["logprobs"] = TOKEN_ID_OPTIONS["logprobs"]
        extra |= TOKEN_ID_OPTIONS["extra_body"]
    return options | {"extra_body": extra} if extra else options


def _check_sampling(sampling: SamplingParams, *, extra_fields: bool) -> None:
    """Raise `SettingsError` for settings that would change the answer but cannot be sent."""
    rules = replace(NO_RULES, repetition_penalty=sampling.rules.repetition_penalty)
    local = [
        f"{name}={value!r}"
        for name, value in asdict(sampling.rules).items()
        if value != getattr(rules, name)
    ]
    if local:
        raise SettingsError(
            f"A model on a server does not support {', '.join(local)}, which the target's "
            'generation config sets. Set generation_config="ignore", or run the model locally.'
        )
    fields = {
        "top_k": sampling.temperature > 0 and sampling.top_k,
        "min_p": sampling.temperature > 0 and sampling.min_p,
        "repetition_penalty": rules != NO_RULES and rules.repetition_penalty,
    }
    unknown = [f"{name}={value}" for name, value in fields.items() if value]
    if unknown and not extra_fields:
        raise SettingsError(
            f"The server accepts only fields of the OpenAI API, so it does not support "
            f"{', '.join(unknown)}. Remove the setting, or use a server such as vLLM."
        )


def parse_chunk(part: Any) -> Chunk:
    """Convert one part of a stream of the openai client to a `Chunk`.

    Raises:
        TransientError: The part contains an error.
    """
    choices = getattr(part, "choices", None)
    if not choices:
        if getattr(part, "error", None):
            raise TransientError(str(part.error))
        return Chunk("", None, None, None, None)
    choice = choices[0]
    logprobs = getattr(choice, "logprobs", None)
    details = getattr(getattr(part, "usage", None), "prompt_tokens_details", None)
    return Chunk(
        text=getattr(choice, "text", None) or "",
        token_ids=getattr(choice, "token_ids", None),
        # llama.cpp returns log-probabilities in the chat format, which has no `token_logprobs`.
        logprobs=getattr(logprobs, "token_logprobs", None),
        finish_reason=getattr(choice, "finish_reason", None),
        cached_tokens=getattr(details, "cached_tokens", None),
    )


@dataclass(frozen=True)
class PromptScores:
    """Scores of the trailing tokens of a prompt."""

    logprobs: list[float]
    """Log-probability of each token in nats."""
    ranks: list[int]
    """Rank of each token: the number of tokens that are more probable. 0 is the most probable
    token."""
    prompt_tokens: int
    """Number of tokens of the prompt."""
    cached_tokens: int
    """Number of prompt tokens in the server's cache. 0 if the server does not return it."""


def parse_prompt_scores(completion: Any, ids: Sequence[int], start: int) -> PromptScores | None:
    """Read the scores of `ids[start:]` from the `prompt_logprobs` of a completion.

    Args:
        completion: The response of the openai client.
        ids: Token ids of the prompt.
        start: Index of the first scored token.

    Returns:
        The scores. None if the completion does not contain them.
    """
    rows = getattr(completion.choices[0], "prompt_logprobs", None)
    if not isinstance(rows, list) or len(rows) != len(ids):
        return None
    entries = [
        row.get(str(token)) if isinstance(row, dict) else None
        for row, token in zip(rows[start:], ids[start:], strict=True)
    ]
    if not all(isinstance(entry, dict) and "logprob" in entry for entry in entries):
        return None
    usage = getattr(completion, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return PromptScores(
        logprobs=[float(entry["logprob"]) for entry in entries if entry],
        ranks=[int(entry.get("rank") or 1) - 1 for entry in entries if entry],
        prompt_tokens=len(ids),
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
    )


def error_text(error: Any) -> str:
    """Return the server's error message as one line of at most 500 characters."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return " ".join(str(body or error).split())[:500]


def _error_type(status: int, message: str) -> type[EngineError | ContextLengthError]:
    """Return the exception type for an error response.

    Servers have no common error code for a prompt that is too long, so the message is searched.
    """
    too_long = (
        "context" in message
        or "too long" in message
        or ("tokens" in message and "must be <=" in message)
    )
    return ContextLengthError if too_long and status in (400, 413, 422) else EngineError
