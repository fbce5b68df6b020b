"""Generates one step on a server, and detects its end locally.

Servers treat stop strings differently, and none returns the string that it found. So requests
contain no separators. After each chunk, the stop rule of local models searches for the end of the
step. Closing the stream then stops the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from langgraph_arbitrage.decoding.stop_rule import stop_rule
from langgraph_arbitrage.engine.requests import (
    FinishReason,
    GenerateOutput,
    GenerateRequest,
    RequestHandle,
)
from langgraph_arbitrage.engine.sequence import Sequence as EngineSequence
from langgraph_arbitrage.errors import EngineError
from langgraph_arbitrage.models.tokenizer import Tokenizer
from langgraph_arbitrage.remote.protocol import FAILURE_REASONS, TransientError
from langgraph_arbitrage.remote.server import Backoff, RemoteServer

__all__ = ["RemoteStep"]


class RemoteStep:
    """Generates the output of one `GenerateRequest`.

    Args:
        handle: The request.
        tokenizer: The model's tokenizer.
        end_ids: Token ids that end an answer.
        context: Context length of the model in tokens. None: unlimited.
    """

    def __init__(
        self,
        handle: RequestHandle[Any],
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
    ) -> None:
        request = handle.request
        assert isinstance(request, GenerateRequest)  # noqa: S101 - `RemoteEngine` refuses scores
        self._request = request
        self._listener = handle.listener or (lambda token: None)
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        # The sequence has no listener, because this class calls the listener before tokens are
        # final.
        silent: RequestHandle[Any] = RequestHandle(request)
        silent.submitted = handle.submitted
        rule = stop_rule(
            tokenizer, request.separators, request.stop, request.spans, request.min_step_tokens
        )
        self._sequence = EngineSequence(silent, end_ids, context, stop_rule=rule)
        closings = (closing for _, closing in request.spans)
        self._patterns = (*request.separators, *request.stop, *closings)
        self._text = ""
        """Text of the step so far, if the server returns no token ids."""
        self._streamed = 0
        """Number of characters of `_text` that the listener has received."""
        self._has_logprobs = True

    async def generate(self, server: RemoteServer) -> GenerateOutput:
        """Generate the step. A retry continues from the tokens received so far.

        Raises:
            EngineError: All retries failed, or the server generated no tokens.
            SettingsError: The request is `verify_only`, but the server returns no prompt scores.
        """
        if self._request.verify_only:
            return await self._score_draft(server)
        backoff, finish, sequence = Backoff(server.address), None, self._sequence
        while finish is None:
            before = len(sequence.tokens)
            try:
                finish = await self._read_stream(server)
            except TransientError as error:
                if len(sequence.tokens) > before:
                    backoff.reset()
                await backoff.wait(error)
        generated = len(sequence.tokens) - sequence.prompt_length
        if not generated and finish != "end":
            raise EngineError(
                f"{server.address} generated no tokens (finish reason: {finish!r}). Check the "
                "log and the context length of the server."
            )
        if not self._has_logprobs:
            sequence.logprobs = []
        uncached = sequence.prompt_length - sequence.cached_tokens
        sequence.computed_tokens = uncached + generated
        return sequence.generate_output(finish)

    async def _score_draft(self, server: RemoteServer) -> GenerateOutput:
        """Score the draft tokens. The output contains scores but no tokens."""
        prompt, draft = list(self._request.ids), list(self._request.draft_tokens)
        scores = await server.score([*prompt, *draft], len(prompt))
        sequence = self._sequence
        sequence.cached_tokens = min(scores.cached_tokens, len(prompt))
        sequence.computed_tokens = scores.prompt_tokens - scores.cached_tokens
        return sequence.generate_output(
            "verified", sequence.score_output(logprobs=scores.logprobs, ranks=scores.ranks)
        )

    async def _read_stream(self, server: RemoteServer) -> FinishReason:
        """Read one stream up to the end of the step. Returns why the step ends."""
        sequence = self._sequence
        generated = len(sequence.tokens) - sequence.prompt_length
        stream = server.stream(sequence.tokens, self._request.max_tokens - generated, self._request)
        async with aclosing(stream) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if chunk.cached_tokens is not None:
                    sequence.cached_tokens = min(chunk.cached_tokens, sequence.prompt_length)
                if chunk.token_ids is not None:
                    finish = self._append_tokens(chunk.token_ids, chunk.logprobs)
                else:
                    finish = self._append_text(chunk.text) if chunk.text else None
                if finish is not None:
                    return finish
                if chunk.finish_reason is not None:
                    return self._finish(chunk.finish_reason)
        raise TransientError("the stream ended without a finish reason")

    def _append_tokens(
        self, ids: Sequence[int], logprobs: Sequence[float] | None
    ) -> FinishReason | None:
        """Append tokens from the server. Returns why the step ends, or None if it continues."""
        complete = logprobs is not None and len(logprobs) == len(ids)
        self._has_logprobs &= complete or not ids
        for i, token in enumerate(ids):
            self._listener(token)
            logprob = logprobs[i] if complete and logprobs is not None else 0.0
            finish = self._sequence.append(token, logprob)
            if finish is not None:
                return finish
        return None

    def _append_text(self, text: str) -> FinishReason | None:
        """Append text from the server. Returns why the step ends, or None if it continues.

        The whole step is encoded again, because new text may change the tokens of earlier text.
        """
        sequence = self._sequence
        self._has_logprobs = False
        self._text += text
        ids = self._tokenizer.encode(self._text)
        del sequence.tokens[sequence.prompt_length :]
        searched = self._request.tail + self._text
        may_end = any(pattern in searched for pattern in self._patterns)
        if len(ids) < self._request.max_tokens and not may_end:
            sequence.tokens += ids
            self._stream_text(_last_word_start(self._text))
            return None
        for token in ids:
            finish = sequence.append(token, 0.0)
            if finish is not None:
                return finish
        return None

    def _stream_text(self, end: int) -> None:
        """Send the text before index `end` to the listener, as tokens."""
        if end > self._streamed:
            for token in self._tokenizer.encode(self._text[self._streamed : end]):
                self._listener(token)
            self._streamed = end

    def _finish(self, reason: str) -> FinishReason:
        """Convert the server's finish reason. Appends the end token, as a local model does."""
        if reason in FAILURE_REASONS:
            raise TransientError(f"the server returned the finish reason {reason!r}")
        if reason == "length":
            return "length"
        end = self._tokenizer.hf.eos_token_id
        sequence = self._sequence
        if end in self._end_ids and sequence.tokens[sequence.prompt_length :][-1:] != [end]:
            sequence.append(end, 0.0)
        return "end"


def _last_word_start(text: str) -> int:
    """Return the index of the space before the last word. 0 if the text has only one word."""
    for index in range(len(text) - 2, 0, -1):
        is_space = text[index] == " "
        if is_space and not text[index - 1].isspace() and not text[index + 1].isspace():
            return index
    return 0
