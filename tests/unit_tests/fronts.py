"""A target behind a real server, and what may stand in the way of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from langgraph_arbitrage import ChatArbitrage, Random
from serving import Served
from tiny import QUESTIONS, pair

__all__ = ["MODELS", "RUN", "Front", "address", "local_answer", "words"]

MODELS = pair(endless=True, words=True)
RUN: dict[str, Any] = {
    "draft": MODELS["draft"],
    "separator": (".", "\n"),
    "router": Random(0.5, seed=2),
    "max_tokens": 60,
    "max_step_tokens": 12,
}


class Front:
    """What stands before the interface: counts what is asked, and may get in the way."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.asked: list[dict[str, Any]] = []
        self.way: Callable[[dict[str, Any]], Any] = lambda body: None
        """Changes a body, or answers in the interface's place."""
        self.back: Callable[[dict[str, Any]], Any] = lambda event: None
        """Changes an event of a stream on its way back."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        whole = b""
        while True:
            message = await receive()
            whole += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = json.loads(whole or b"{}")
        self.asked.append(dict(body))
        answer = self.way(body)
        if answer is not None:
            await answer(scope, receive, send)
            return
        changed, told = json.dumps(body).encode(), False

        async def again() -> Any:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": changed, "more_body": False}

        headers = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
        await self.app({**scope, "headers": headers}, again, self._changing(send))

    def _changing(self, send: Any) -> Any:
        async def changed(message: dict[str, Any]) -> None:
            lines = message.get("body", b"").split(b"\n")
            for n, line in enumerate(lines):
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    self.back(event)
                    lines[n] = b"data: " + json.dumps(event).encode()
            await send(message | ({"body": b"\n".join(lines)} if "body" in message else {}))

        return changed


def address(server: Served, **settings: Any) -> str:
    query = "&".join(
        f"{n}={v}" for n, v in ({"tokenizer": MODELS["target"], "retries": 0} | settings).items()
    )
    return f"openai:{server.url}?{query}#target"


def words(message: Any) -> list[tuple[str, str]]:
    return [(s["writer"], s["text"]) for s in message.response_metadata["arbitrage"]["steps"]]


@cache
def local_answer(question: str = QUESTIONS[0], **settings: Any) -> Any:
    return ChatArbitrage(**RUN | {"target": MODELS["target"]} | settings).invoke(question)
