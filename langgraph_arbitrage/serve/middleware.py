"""What a request passes before its body is read: the key, the number of others, its size."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langgraph_arbitrage.serve.failures import refused
from langgraph_arbitrage.serve.settings import ServeSettings

__all__ = ["Doors", "Tally"]

GUARDED = "/v1/"


@dataclass
class Tally:
    """Requests that run or wait."""

    open: int = 0


class Doors:
    """ASGI middleware that refuses requests early.

    Args:
        app: What is behind.
        settings: Key and limits.
        tally: Counts the requests behind.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, tally: Tally) -> None:
        self._app = app
        self._settings = settings
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        if not self._knows(Headers(scope=scope).get("authorization", "")):
            text = "a wrong key, or none: send the server's as Authorization: Bearer KEY"
            await refused(401, text, "invalid_api_key")(scope, receive, send)
            return
        most = self._settings.most_open
        if self._tally.open >= most:
            text = f"{most} requests run or wait, and no more are taken: come back later"
            await refused(503, text, "busy")(scope, receive, send)
            return
        self._tally.open += 1
        try:
            await self._app(scope, self._limited(scope, receive), send)
        finally:
            self._tally.open -= 1

    def _knows(self, given: str) -> bool:
        key = self._settings.api_key
        if key is None:
            return True
        kind, _, token = given.partition(" ")
        same = hmac.compare_digest(token.strip().encode(), key.get_secret_value().encode())
        return kind.lower() == "bearer" and same

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        most = self._settings.max_body
        declared = Headers(scope=scope).get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        read = 0

        async def limited() -> Message:
            nonlocal read
            if size > most:
                raise _too_large(size, most)
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _too_large(read, most)
            return message

        return limited


def _too_large(size: int, most: int) -> HTTPException:
    return HTTPException(413, f"the body has {size} bytes or more; at most {most} are read")
