"""Raw completions: draft or target continues a text or token ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from langgraph_arbitrage.engine import (
    Engine,
    GenerateOutput,
    GenerateRequest,
    SamplingParams,
    ScoreOutput,
    ScoreRequest,
)
from langgraph_arbitrage.errors import MessageError
from langgraph_arbitrage.loop.answer_text import TextRelease, answer_text
from langgraph_arbitrage.loop.engine_calls import EngineCall, submit_async
from langgraph_arbitrage.serve.requests import CompletionRequest
from langgraph_arbitrage.serve.streams import SendChunk

__all__ = ["TextCompletion"]

DEFAULT_MAX_TOKENS = 16
"""As in OpenAI's API."""


class TextCompletion:
    """The answer to one request of /v1/completions.

    Args:
        body: Body of the request.
        engine: Engine of the model.
        name: Name of the model in the response.

    Raises:
        DataError: A field is not supported.
        MessageError: The prompt contains a token id that the model does not have.
    """

    def __init__(self, body: CompletionRequest, engine: Engine, name: str) -> None:
        body.check()
        self._body = body
        self._engine = engine
        self._prompt = _prompt_ids(body, engine)
        self._header = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }

    async def run(self) -> dict[str, Any]:
        """Generate the complete response."""
        scores = None if self._body.prompt_logprobs is None else await self._score_prompt()
        output = await self._generate(None)
        text = answer_text(self._decode(output.ids), self._body.stop_strings, ())
        choice = self._choice(text, output.ids, output)
        if scores is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs(scores)
            # The generation finds the whole prompt in the cache; the scoring did not.
            output = replace(output, cached_tokens=scores.cached_tokens)
        return {**self._header, "choices": [choice], "usage": self._usage(output)}

    async def _score_prompt(self) -> ScoreOutput:
        start = min(self._body.prompt_logprobs_start or 1, len(self._prompt))
        call = EngineCall(self._engine, ScoreRequest(self._prompt, start=start), continues=False)
        [output] = await submit_async([call])
        return output  # type: ignore[no-any-return]

    def _prompt_logprobs(self, scores: ScoreOutput) -> list[dict[str, Any] | None]:
        """The scores of the prompt tokens in the format of vLLM; None for unscored tokens."""
        unscored = len(self._prompt) - len(scores.logprobs)
        return [None] * unscored + [
            {
                str(token): {
                    "logprob": logprob,
                    "rank": rank + 1,
                    "decoded_token": self._engine.tokenizer.token_text(token),
                }
            }
            for token, logprob, rank in zip(
                self._prompt[unscored:], scores.logprobs, scores.ranks, strict=True
            )
        ]

    async def stream(self, send: SendChunk) -> None:
        """Generate the response and send it in chunks."""
        release = TextRelease(self._body.stop_strings, ())
        ids: list[int] = []
        pushed = 0  # characters
        sent = 0  # tokens

        def on_token(token: int) -> None:
            nonlocal pushed, sent
            ids.append(token)
            text = self._decode(ids).rstrip("\ufffd")  # incomplete characters
            if delta := release.push(text[pushed:]):
                send({**self._header, "choices": [self._choice(delta, ids[sent:])]})
                sent = len(ids)
            pushed = max(pushed, len(text))

        output = await self._generate(on_token)
        text = answer_text(self._decode(output.ids), self._body.stop_strings, ())
        last = self._choice(release.finish(text), output.ids[sent:], output)
        send({**self._header, "choices": [last]})
        if self._body.include_usage:
            send({**self._header, "choices": [], "usage": self._usage(output)})

    async def _generate(self, on_token: Callable[[int], None] | None) -> GenerateOutput:
        body = self._body
        request = GenerateRequest(
            self._prompt,
            max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
            stop=body.stop_strings,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            sampling=SamplingParams(
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                top_k=body.top_k or 0,
                min_p=body.min_p or 0.0,
                seed=uuid.uuid4().int if body.seed is None else body.seed,
            ),
        )
        call = EngineCall(self._engine, request, on_token, continues=False)
        [output] = await submit_async([call])
        return output  # type: ignore[no-any-return]

    def _decode(self, ids: list[int]) -> str:
        return self._engine.tokenizer.decode_after(self._prompt[-1:], ids)

    def _choice(
        self, text: str, ids: list[int], output: GenerateOutput | None = None
    ) -> dict[str, Any]:
        """A choice with a part of the text.

        Args:
            text: The text.
            ids: Token ids of the text.
            output: Output of the engine, for the last choice of a response. It adds the finish
                reason and the log-probabilities.
        """
        choice: dict[str, Any] = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": None,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = ids
        if output is None:
            return choice
        choice["finish_reason"] = "stop" if output.finish in ("end", "stop") else "length"
        if self._body.logprobs is not None:
            tokenizer = self._engine.tokenizer
            choice["logprobs"] = {
                "tokens": [tokenizer.token_text(token) for token in output.ids],
                "token_logprobs": output.logprobs,
                "top_logprobs": None,
                "text_offset": [],
            }
        return choice

    def _usage(self, output: GenerateOutput) -> dict[str, Any]:
        prompt_tokens, completion_tokens = len(self._prompt), len(output.ids)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": output.cached_tokens},
        }


def _prompt_ids(body: CompletionRequest, engine: Engine) -> list[int]:
    tokenizer = engine.tokenizer
    if isinstance(body.prompt, str):
        start = tokenizer.start_ids if body.add_special_tokens else []
        return [*start, *tokenizer.encode(body.prompt, begins=True)]
    size = len(tokenizer.hf)
    if (invalid := next((token for token in body.prompt if not 0 <= token < size), None)) is None:
        return body.prompt
    raise MessageError(
        f"token id {invalid} is not in the vocabulary of {engine.spec.name}, which has {size} "
        "tokens"
    )
