"""The client of one server: detects the supported request format and streams completions."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from langgraph_arbitrage.engine.requests import GenerateRequest
from langgraph_arbitrage.errors import CheckpointError, EngineError, MessageError, SettingsError
from langgraph_arbitrage.models.tokenizer import Tokenizer
from langgraph_arbitrage.remote.address import ServerAddress
from langgraph_arbitrage.remote.protocol import (
    NEUTRAL_SAMPLING,
    TOKEN_ID_OPTIONS,
    Chunk,
    PromptScores,
    RejectedError,
    TransientError,
    completion_options,
    error_text,
    parse_chunk,
    parse_prompt_scores,
)

if TYPE_CHECKING:
    from types import TracebackType

    from openai import AsyncOpenAI

__all__ = ["Backoff", "RemoteServer"]

logger = logging.getLogger(__name__)

PROBE = "Ann has 12 pens and 345 cups.\n\nSo 12 + 345 = 357; naïve, isn't it?"
FIRST_DELAY, MAX_DELAY = 0.5, 8.0  # seconds before a retry
RETRIED_STATUSES = (408, 409, 425, 429)  # retried like 5xx


class RemoteServer:
    """The client of one server. All its methods must run on the same event loop.

    Args:
        address: The server, the model and the connection options.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, address: ServerAddress, tokenizer: Tokenizer) -> None:
        from openai import AsyncOpenAI, Timeout

        self.address = address
        self._tokenizer = tokenizer
        self._client: AsyncOpenAI = AsyncOpenAI(
            base_url=address.url,
            api_key=os.environ.get(address.key) or "none",
            timeout=Timeout(address.timeout, connect=min(10.0, address.timeout)),
            max_retries=0,  # `RemoteStep` retries, because it can continue an interrupted stream
        )
        self._probe_lock = asyncio.Lock()
        self._accepts_token_ids: bool | None = None  # None before the probe
        self._accepts_extra_fields = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    @property
    def accepts_token_ids(self) -> bool:
        """Whether the server accepts and returns token ids. False before the probe."""
        return bool(self._accepts_token_ids)

    # --- probe ----------------------------------------------------------------------------

    async def probe(self) -> None:
        """Detect the request format of the server, and check its tokenizer. Later calls do nothing.

        Raises:
            CheckpointError: The server's tokenizer differs from the local tokenizer.
            EngineError: The server does not respond, or has no completions endpoint.
        """
        if self._accepts_token_ids is None:
            async with self._probe_lock:
                if self._accepts_token_ids is None:
                    accepts_token_ids = await self._detect_token_ids()
                    await self._check_tokenizer()
                    self._accepts_token_ids = accepts_token_ids

    async def _detect_token_ids(self) -> bool:
        """Return whether the server accepts and returns token ids."""
        if self.address.prompt == "text":
            return False
        ids = self._tokenizer.encode(PROBE, begins=True)
        extra = NEUTRAL_SAMPLING | TOKEN_ID_OPTIONS["extra_body"]
        try:
            await self._request_token(prompt=ids, **TOKEN_ID_OPTIONS | {"extra_body": extra})
        except RejectedError as rejected:
            if self.address.prompt == "ids" or not rejected.is_format_error:
                raise rejected.error from None
            return False
        return True

    async def _check_tokenizer(self) -> None:
        """Compare both tokenizers' token counts of the probe text.

        Also detect whether the server accepts fields that are not in the OpenAI API.
        """
        try:
            completion = await self._request_token(prompt=PROBE, extra_body=NEUTRAL_SAMPLING)
            self._accepts_extra_fields = True
        except RejectedError as rejected:
            if not rejected.is_format_error:
                raise rejected.error from None
            completion = await self._send_plain_probe()
        usage = getattr(completion, "usage", None)
        if usage is None:
            return
        count, start = len(self._tokenizer.encode(PROBE, begins=True)), self._tokenizer.start_ids
        if usage.prompt_tokens not in (count, count + 1, count + len(start)):
            raise CheckpointError(
                f"{self.address} does not use the tokenizer {self.address.tokenizer}: the server "
                f"encodes a test text as {usage.prompt_tokens} tokens, and that tokenizer as "
                f"{count}. Set the served model's tokenizer: openai:URL?tokenizer=NAME#MODEL"
            )

    async def _send_plain_probe(self) -> Any:
        try:
            return await self._request_token(prompt=PROBE)
        except RejectedError as rejected:
            raise rejected.error from None

    async def _request_token(self, **options: Any) -> Any:
        """Return a greedy completion of one token. Transient failures are retried."""
        backoff = Backoff(self.address)
        while True:
            try:
                async with self._converted_errors():
                    completion = await self._client.completions.create(
                        model=self.address.model, max_tokens=1, temperature=0, **options
                    )
            except TransientError as error:
                await backoff.wait(error)
                continue
            if not getattr(completion, "choices", None):
                raise EngineError(
                    f"{self.address} did not return a completion. Check that the URL is the base "
                    "URL of an OpenAI-compatible server, such as http://host:port/v1."
                )
            return completion

    # --- completions ----------------------------------------------------------------------

    async def stream(
        self, ids: Sequence[int], max_tokens: int, request: GenerateRequest
    ) -> AsyncIterator[Chunk]:
        """Yield the chunks of a streamed completion.

        Args:
            ids: Token ids of the prompt and the answer so far.
            max_tokens: Maximum number of tokens to generate.
            request: Provides the sampling parameters and stop strings.

        Raises:
            ContextLengthError: The prompt is longer than the context length on the server.
            EngineError: The server rejects the request.
            MessageError: The server accepts only text, and the prompt has escaped special tokens.
            SettingsError: The server does not support a sampling setting.
            TransientError: The stream was interrupted, or the server returned a transient error.
        """
        prompt = list(ids) if self.accepts_token_ids else self._prompt_text(ids)
        options = completion_options(
            request,
            len(self._tokenizer.hf),
            token_ids=self.accepts_token_ids,
            extra_fields=self._accepts_extra_fields,
        )
        try:
            async with self._converted_errors():
                parts = await self._client.completions.create(
                    model=self.address.model,
                    prompt=prompt,
                    max_tokens=max_tokens,
                    stream=True,
                    **options,
                )
                # The client closes the response but not the generator that reads it. Garbage
                # collection could close the generator on another thread while it runs.
                reader: Any = getattr(parts, "_iterator", parts)
                async with parts, aclosing(reader):
                    async for part in reader:
                        yield parse_chunk(part)
        except RejectedError as rejected:
            raise rejected.error from None

    async def score(self, ids: Sequence[int], start: int) -> PromptScores:
        """Score the tokens `ids[start:]` of a prompt with the request field `prompt_logprobs`.

        vLLM then computes the whole prompt. The server of this package computes only uncached
        tokens.

        Raises:
            EngineError: All retries failed, or the server rejects the request.
            SettingsError: The server does not return `prompt_logprobs`.
        """
        completion = None
        if self.accepts_token_ids:
            extra = {"prompt_logprobs": 1, "prompt_logprobs_start": start}
            extra |= TOKEN_ID_OPTIONS["extra_body"] | NEUTRAL_SAMPLING
            try:
                completion = await self._request_token(prompt=list(ids), extra_body=extra)
            except RejectedError as rejected:
                if not rejected.is_format_error:
                    raise rejected.error from None
        scores = completion and parse_prompt_scores(completion, ids, start)
        if not scores:
            raise SettingsError(
                f"{self.address} does not return log-probabilities of prompt tokens "
                "(`prompt_logprobs` for token ids), which the policy needs to score the draft's "
                "step. Use DraftConfidence, a LearnedRouter, a local target, or a server such as "
                "vLLM."
            )
        return scores

    def _prompt_text(self, ids: Sequence[int]) -> str:
        """Return the prompt as text, without the start tokens that the server's tokenizer adds."""
        start = self._tokenizer.start_ids
        if start and list(ids[: len(start)]) == start:
            ids = ids[len(start) :]
        text = str(self._tokenizer.hf.decode(list(ids), skip_special_tokens=False))
        # The server would encode the name of an escaped special token as the token itself.
        name = self._tokenizer.control_tokens.find(text)
        if name and not self._tokenizer.same_control_tokens(text, ids):
            raise MessageError(
                f"{self.address} accepts prompts as text only, so the special token {name!r} in "
                "the conversation cannot be sent as ordinary text. Set special_tokens_in_text to "
                '"allow" or "refuse", or use a server that accepts token ids, such as vLLM.'
            )
        return text

    @asynccontextmanager
    async def _converted_errors(self) -> AsyncIterator[None]:
        """Convert errors of the openai client to `TransientError` and `RejectedError`."""
        import httpx
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise TransientError(
                f"no response within timeout={self.address.timeout:g} seconds"
            ) from None
        except openai.APIConnectionError as error:
            raise TransientError(f"{error} ({error.__cause__ or 'connection lost'})") from None
        except openai.APIStatusError as error:
            if error.status_code >= 500 or error.status_code in RETRIED_STATUSES:
                raise TransientError(f"status {error.status_code}: {error_text(error)}") from None
            raise RejectedError(self.address, error.status_code, error_text(error)) from None
        except openai.APIError as error:  # an error inside a stream
            raise TransientError(error_text(error)) from None
        except (httpx.HTTPError, ConnectionError, ValueError) as error:
            raise TransientError(f"{type(error).__name__}: {error}") from None


class Backoff:
    """Counts consecutive failures and waits before each retry."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._failures = 0

    def reset(self) -> None:
        """Reset the number of failures to 0, after the server has returned tokens."""
        self._failures = 0

    async def wait(self, error: TransientError) -> None:
        """Wait before the next retry. The delay doubles with each failure, up to 8 seconds.

        Raises:
            EngineError: The number of consecutive failures exceeds `address.retries`.
        """
        self._failures += 1
        if self._failures > self._address.retries:
            raise EngineError(
                f"{self._address} failed (consecutive failures: {self._failures}, last: {error}). "
                "With a checkpointer, the committed steps are saved: resume the thread once the "
                "server is available, or set a larger retries= or timeout= in the address."
            ) from None
        delay = min(MAX_DELAY, FIRST_DELAY * 2 ** (self._failures - 1))
        logger.warning("%s: %s. Retrying in about %g s", self._address, error, delay)
        await asyncio.sleep(delay * random.uniform(0.75, 1.25))
