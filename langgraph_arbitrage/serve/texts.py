"""Raw completions: the draft or the target goes on from a text or from token ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from langgraph_arbitrage.engine import Engine, GenerateOutput, GenerateRequest, SamplingParams
from langgraph_arbitrage.errors import MessageError
from langgraph_arbitrage.loop.answer_text import TextRelease, answer_text
from langgraph_arbitrage.loop.engine_calls import EngineCall, submit_async
from langgraph_arbitrage.serve.bodies import TextBody
from langgraph_arbitrage.serve.streams import Put

__all__ = ["TextCompletion"]

MAX_TOKENS = 16  # as OpenAI has it where a request says nothing


class TextCompletion:
    """One request of /v1/completions.

    Args:
        body: What is asked.
        engine: The model.
        name: What the client calls it.

    Raises:
        DataError: A field is not supported.
        MessageError: The prompt is no text of this model's.
    """

    def __init__(self, body: TextBody, engine: Engine, name: str) -> None:
        body.check()
        self._body = body
        self._engine = engine
        self._prompt = _prompt_ids(body, engine)
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer, complete."""
        written = await self._written(None)
        text = answer_text(self._text(written.ids), self._body.stops, ())
        return {
            **self._head,
            "choices": [self._choice(text, written.ids, written)],
            "usage": self._usage(written),
        }

    async def stream(self, put: Put) -> None:
        """Put the answer's chunks."""
        told, ids, length, sent = TextRelease(self._body.stops, ()), [], 0, 0

        def on_token(token: int) -> None:
            nonlocal length, sent
            ids.append(token)
            text = self._text(ids).rstrip("\ufffd")
            if new := told.push(text[length:]):
                put({**self._head, "choices": [self._choice(new, ids[sent:])]})
                sent = len(ids)
            length = max(length, len(text))

        written = await self._written(on_token)
        text = answer_text(self._text(written.ids), self._body.stops, ())
        put(
            {
                **self._head,
                "choices": [self._choice(told.finish(text), written.ids[sent:], written)],
            }
        )
        if self._body.tells_usage:
            put({**self._head, "choices": [], "usage": self._usage(written)})

    async def _written(self, on_token: Callable[[int], None] | None) -> GenerateOutput:
        body = self._body
        request = GenerateRequest(
            self._prompt,
            max_tokens=body.max_tokens or MAX_TOKENS,
            stop=body.stops,
            sampling=SamplingParams(
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                top_k=body.top_k or 0,
                seed=uuid.uuid4().int if body.seed is None else body.seed,
            ),
        )
        [output] = await submit_async([EngineCall(self._engine, request, on_token, False)])
        return output  # type: ignore[no-any-return]

    def _text(self, ids: list[int]) -> str:
        return self._engine.tokenizer.decode_after(self._prompt[-1:], ids)

    def _choice(
        self, text: str, ids: list[int], written: GenerateOutput | None = None
    ) -> dict[str, Any]:
        """A choice with a part of the text and its tokens; the last has the log-probabilities."""
        choice: dict[str, Any] = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": None,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = ids
        if written is None:
            return choice
        choice["finish_reason"] = "stop" if written.finish in ("end", "stop") else "length"
        if self._body.logprobs is not None:
            tokenizer = self._engine.tokenizer
            choice["logprobs"] = {
                "tokens": [tokenizer.token_text(token) for token in written.ids],
                "token_logprobs": written.logprobs,
                "top_logprobs": None,
                "text_offset": [],
            }
        return choice

    def _usage(self, written: GenerateOutput) -> dict[str, Any]:
        n, new = len(self._prompt), len(written.ids)
        return {
            "prompt_tokens": n,
            "completion_tokens": new,
            "total_tokens": n + new,
            "prompt_tokens_details": {"cached_tokens": written.cached_tokens},
        }


def _prompt_ids(body: TextBody, engine: Engine) -> list[int]:
    tokenizer = engine.tokenizer
    if isinstance(body.prompt, str):
        start = tokenizer.start_ids if body.add_special_tokens else []
        return [*start, *tokenizer.encode(body.prompt, begins=True)]
    most = len(tokenizer.hf)
    if wrong := next((token for token in body.prompt if not 0 <= token < most), None):
        raise MessageError(f"token id {wrong} is none of {engine.spec.name}, which has {most}")
    return body.prompt
