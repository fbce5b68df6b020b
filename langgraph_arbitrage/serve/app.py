"""The HTTP interface: chat completions, raw completions, the models, health."""

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
from langgraph_arbitrage.serve.bodies import ChatBody, TextBody
from langgraph_arbitrage.serve.failures import add_handlers, refused
from langgraph_arbitrage.serve.middleware import Doors, Tally
from langgraph_arbitrage.serve.settings import ServeSettings
from langgraph_arbitrage.serve.streams import Put, streamed, whole
from langgraph_arbitrage.serve.texts import TextCompletion
from langgraph_arbitrage.utils.openai_format import ChunkForm, chat_completion

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["create_app"]

WRONG: dict[int | str, dict[str, Any]] = {
    status: {"description": why}
    for status, why in {
        400: "The request cannot be answered as it is",
        401: "A wrong key, or none",
        404: "No such model",
        408: "The answer was not there in time",
        413: "The body is too large",
        500: "A model failed",
        503: "Too many requests run or wait",
    }.items()
}


def create_app(llm: ChatArbitrage, settings: ServeSettings | None = None) -> FastAPI:
    """The interface as an ASGI app; the models load at the first request.

    Args:
        llm: Who answers. Its models are given back when the app ends.
        settings: Key, names and limits; host and port do not matter here.
    """
    settings = settings or ServeSettings()
    models = Models(llm)
    chats = {
        settings.name: llm,
        "draft": llm.under(AlwaysDraft()),
        "target": llm.under(AlwaysTarget()),
    }
    aliases = {public_name(llm.draft): "draft", public_name(llm.target): "target"}
    began, tally = int(time.time()), Tally()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(_close, [*chats.values(), models])

    app = FastAPI(title="langgraph_arbitrage", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Doors, settings=settings, tally=tally)
    add_handlers(app)

    def unknown(model: str) -> JSONResponse:
        text = f"there is no model {model!r}; those served are {', '.join(chats)}"
        return refused(404, text, "model_not_found")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """That the server answers, and how many requests run or wait."""
        return {"status": "ok", "requests": tally.open}

    @app.get("/v1/models", responses={401: WRONG[401], 503: WRONG[503]})
    async def list_models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [_card(name, began) for name in chats]}

    @app.get("/v1/models/{model}", response_model=None, responses=WRONG)
    async def show_model(model: str) -> Response | dict[str, Any]:
        """One of them."""
        return _card(model, began) if model in chats else unknown(model)

    @app.post("/v1/chat/completions", response_model=None, responses=WRONG)
    async def chat(body: ChatBody, request: Request) -> Response | dict[str, Any]:
        """Answer a conversation."""
        name = aliases.get(body.model or "", body.model) or settings.name
        if name not in chats:
            return unknown(name)
        messages, options = read_messages(body.fields["messages"]), body.options
        if not body.stream:
            found = await whole(request, chats[name].ainvoke(messages, **options))
            return found if isinstance(found, Response) else chat_completion(found, name)

        async def work(put: Put) -> None:
            form, begun = ChunkForm(name, usage=body.tells_usage), False
            async for part in chats[name].astream(messages, **options):
                if not begun:
                    put(form.begin())
                    begun = True
                for chunk in form.chunks(part):
                    put(chunk)

        return await streamed(request, work)

    @app.post("/v1/completions", response_model=None, responses=WRONG)
    async def complete(body: TextBody, request: Request) -> Response | dict[str, Any]:
        """Go on from a text, by the draft or the target alone."""
        name = aliases.get(body.model or "", body.model) or "target"
        if name not in ("draft", "target"):
            return unknown(name) if name not in chats else _pair_alone(name)
        engine = await asyncio.to_thread(models.engine, name)  # type: ignore[arg-type]
        completion = TextCompletion(body, engine, name)
        if body.stream:
            return await streamed(request, completion.stream)
        return await whole(request, completion.whole())

    return app


def _card(name: str, began: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": began, "owned_by": "langgraph_arbitrage"}


def _pair_alone(name: str) -> JSONResponse:
    text = f"{name} answers conversations: raw completions are written by draft or target"
    return refused(400, text, "invalid_request")


def _close(users: list[Any]) -> None:
    for user in users:
        user.close()
