"""A step that a server writes: its stream, cut where a local model's step would end.

Servers differ in what they make of stop strings, and none says which one it met. So a step's
separators are not sent: its end is found here, token by token, and closing the stream tells the
server to stop.
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
from langgraph_arbitrage.remote.protocol import FAILED, Broken
from langgraph_arbitrage.remote.server import RemoteServer, Tries

__all__ = ["RemoteStep"]


class RemoteStep:
    """One request to write.

    Args:
        ticket: The request.
        tokenizer: The model's.
        end_ids: Tokens that end an answer.
        context: Most tokens that the model reads.
    """

    def __init__(
        self,
        ticket: RequestHandle[Any],
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        context: int | None,
    ) -> None:
        request = ticket.request
        assert isinstance(request, GenerateRequest)  # noqa: S101 - the engine lets no score through
        self._request = request
        self._listener = ticket.listener or (lambda token: None)
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        unheard: RequestHandle[Any] = RequestHandle(
            request
        )  # text is told before its tokens are certain
        unheard.submitted = ticket.submitted
        ends = stop_rule(tokenizer, request.separators, request.stop, request.spans)
        self._row = EngineSequence(unheard, end_ids, context, stop_rule=ends)
        self._marks = (*request.separators, *request.stop, *(c for _, c in request.spans))
        self._text = ""
        """The step, from a server that tells no token ids."""
        self._told = 0
        """Characters of it that the listener has."""
        self._told_logprobs = True

    async def written(self, server: RemoteServer) -> GenerateOutput:
        """Have the server write; what broke off is gone on with from where it broke.

        Raises:
            EngineError: The server fails however often it is asked, or writes nothing.
        """
        tries, finish, row = Tries(server.address), None, self._row
        while finish is None:
            before = len(row.tokens)
            try:
                finish = await self._streamed(server)
            except Broken as broken:
                if len(row.tokens) > before:
                    tries.progress()
                await tries.again(broken)
        new = len(row.tokens) - row.prompt_length
        if not new and finish != "end":
            raise EngineError(f"{server.address} ends with {finish!r} and has written nothing")
        if not self._told_logprobs:
            row.logprobs = []
        row.computed_tokens = row.prompt_length - row.cached_tokens + new
        return row.generated(finish)

    async def _streamed(self, server: RemoteServer) -> FinishReason | None:
        row = self._row
        left = self._request.max_tokens - (len(row.tokens) - row.prompt_length)
        async with aclosing(server.stream(row.tokens, left, self._request)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if chunk.cached is not None:
                    row.cached_tokens = min(chunk.cached, row.prompt_length)
                if chunk.ids is not None:
                    finish = self._append(chunk.ids, chunk.logprobs)
                else:
                    finish = self._grown(chunk.text) if chunk.text else None
                if finish is not None:
                    return finish
                if chunk.finish is not None:
                    return self._ended(chunk.finish)
        raise Broken("the stream ended in the middle")

    def _append(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> FinishReason | None:
        """Take tokens as the server wrote them; what they end, if anything."""
        known = logprobs is not None and len(logprobs) == len(ids)
        self._told_logprobs &= known or not ids
        for i, token in enumerate(ids):
            self._listener(token)
            logprob = logprobs[i] if known and logprobs is not None else 0.0
            finish = self._row.append(token, logprob)
            if finish is not None:
                return finish
        return None

    def _grown(self, text: str) -> FinishReason | None:
        """Take text: the step is cut into tokens anew, for more text may cut it otherwise."""
        row = self._row
        self._told_logprobs = False
        self._text += text
        ids = self._tokenizer.encode(self._text)
        del row.tokens[row.prompt_length :]
        seen = self._request.tail + self._text
        if len(ids) < self._request.max_tokens and not any(mark in seen for mark in self._marks):
            row.tokens += ids
            self._tell(_last_word(self._text))
            return None
        for token in ids:
            finish = row.append(token, 0.0)
            if finish is not None:
                return finish
        return None

    def _tell(self, end: int) -> None:
        """Tell the listener the text up to there, in tokens that say the same."""
        if end > self._told:
            for token in self._tokenizer.encode(self._text[self._told : end]):
                self._listener(token)
            self._told = end

    def _ended(self, reason: str) -> FinishReason:
        """Why the server says that it ended."""
        if reason in FAILED:
            raise Broken(f"it ended with {reason!r}")
        if reason == "length":
            return "length"
        end = self._tokenizer.hf.eos_token_id
        row = self._row
        if end in self._end_ids and row.tokens[row.prompt_length :][-1:] != [end]:
            row.append(end, 0.0)  # as a local model writes it
        return "end"


def _last_word(text: str) -> int:
    """Where the last word begins; 0 where there is but one."""
    for at in range(len(text) - 2, 0, -1):
        if text[at] == " " and not text[at - 1].isspace() and not text[at + 1].isspace():
            return at
    return 0
