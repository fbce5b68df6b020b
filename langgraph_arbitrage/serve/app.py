"""The HTTP API: chat completions, raw completions, models and health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import public_name
from langgraph_arbitrage.policies import AlwaysDraft, AlwaysTarget
from langgraph_arbitrage.prompts.messages import read_messages
from langgraph_arbitrage.serve.completions import TextCompletion
from langgraph_arbitrage.serve.errors import add_exception_handlers, error_response
from langgraph_arbitrage.serve.middleware import AdmissionMiddleware, RequestCounter
from langgraph_arbitrage.serve.requests import ChatCompletionRequest, CompletionRequest
from langgraph_arbitrage.serve.settings import ServeSettings
from langgraph_arbitrage.serve.streams import SendChunk, run_until_disconnect, stream_response
from langgraph_arbitrage.utils.openai_format import ChunkBuilder, chat_completion

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["create_app"]

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description}
    for status, description in {
        400: "The request is invalid or not supported",
        401: "The API key is missing or wrong",
        404: "The model does not exist",
        408: "The answer exceeded its time limit",
        413: "The body is too large",
        500: "A model failed",
        503: "Too many requests are in progress or waiting",
    }.items()
}
"""Error responses in the OpenAPI schema."""


def create_app(llm: ChatArbitrage, settings: ServeSettings | None = None) -> FastAPI:
    """Create the HTTP API as an ASGI app. The models are loaded at the first request.

    Args:
        llm: Chat model that answers. It is closed when the app shuts down.
        settings: API key, model name and limits. Host and port are ignored. Default:
            `ServeSettings()`.
    """
    settings = settings or ServeSettings()
    models = Models(llm)
    chats = {
        settings.name: llm,
        "draft": llm.under(AlwaysDraft()),
        "target": llm.under(AlwaysTarget()),
    }
    aliases = {public_name(llm.draft): "draft", public_name(llm.target): "target"}
    created, counter = int(time.time()), RequestCounter()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(_close_all, [*chats.values(), models])

    app = FastAPI(title="langgraph_arbitrage", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(AdmissionMiddleware, settings=settings, counter=counter)
    add_exception_handlers(app)

    def unknown_model(model: str) -> JSONResponse:
        message = f"the model {model!r} does not exist. Available models: {', '.join(chats)}"
        return error_response(404, message, "model_not_found")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Report that the server is up, and the number of requests in progress or waiting."""
        return {"status": "ok", "requests": counter.active}

    @app.get("/v1/models", responses={s: ERROR_RESPONSES[s] for s in (401, 503)})
    async def list_models() -> dict[str, Any]:
        """List the available models."""
        return {"object": "list", "data": [_model_card(name, created) for name in chats]}

    @app.get("/v1/models/{model}", response_model=None, responses=ERROR_RESPONSES)
    async def show_model(model: str) -> Response | dict[str, Any]:
        """Describe one model."""
        return _model_card(model, created) if model in chats else unknown_model(model)

    @app.post("/v1/chat/completions", response_model=None, responses=ERROR_RESPONSES)
    async def chat(body: ChatCompletionRequest, request: Request) -> Response | dict[str, Any]:
        """Answer a conversation."""
        name = aliases.get(body.model or "", body.model) or settings.name
        if name not in chats:
            return unknown_model(name)
        messages, options = read_messages(body.fields["messages"]), body.options
        if not body.stream:
            answer = await run_until_disconnect(request, chats[name].ainvoke(messages, **options))
            return answer if isinstance(answer, Response) else chat_completion(answer, name)

        async def work(send: SendChunk) -> None:
            builder, has_started = ChunkBuilder(name, usage=body.include_usage), False
            async for part in chats[name].astream(messages, **options):
                if not has_started:
                    send(builder.first())
                    has_started = True
                for chunk in builder.chunks(part):
                    send(chunk)

        return await stream_response(request, work)

    @app.post("/v1/completions", response_model=None, responses=ERROR_RESPONSES)
    async def complete(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        """Continue a text or token ids with the draft or the target alone."""
        name = aliases.get(body.model or "", body.model) or "target"
        if name not in ("draft", "target"):
            return unknown_model(name) if name not in chats else _chat_only(name)
        engine = await asyncio.to_thread(models.engine, name)  # type: ignore[arg-type]
        completion = TextCompletion(body, engine, name)
        if body.stream:
            return await stream_response(request, completion.stream)
        return await run_until_disconnect(request, completion.run())

    return app


def _model_card(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "langgraph_arbitrage"}


def _chat_only(name: str) -> JSONResponse:
    message = f"the model {name!r} supports chat completions only. Use draft or target instead"
    return error_response(400, message, "invalid_request")


def _close_all(resources: list[Any]) -> None:
    for resource in resources:
        resource.close()
