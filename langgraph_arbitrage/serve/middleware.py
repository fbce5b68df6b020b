"""Middleware that authenticates requests and limits their number and size."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langgraph_arbitrage.serve.errors import error_response
from langgraph_arbitrage.serve.settings import ServeSettings

__all__ = ["AdmissionMiddleware", "RequestCounter"]

GUARDED_PREFIX = "/v1/"


@dataclass
class RequestCounter:
    """Number of requests in progress or waiting."""

    active: int = 0


class AdmissionMiddleware:
    """ASGI middleware that refuses requests before their body is read.

    It checks the API key and the number of active requests. The size of the body is checked while
    the body is read.

    Args:
        app: The wrapped app.
        settings: API key and limits.
        counter: Counts the admitted requests.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, counter: RequestCounter) -> None:
        self._app = app
        self._settings = settings
        self._counter = counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse a request."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED_PREFIX):
            await self._app(scope, receive, send)
            return
        if not self._is_authorized(Headers(scope=scope).get("authorization", "")):
            message = "missing or wrong API key. Send the header Authorization: Bearer KEY"
            await error_response(401, message, "invalid_api_key")(scope, receive, send)
            return
        limit = self._settings.max_requests
        if self._counter.active >= limit:
            message = f"the server is busy with {limit} requests, its maximum. Try again later"
            await error_response(503, message, "busy")(scope, receive, send)
            return
        self._counter.active += 1
        try:
            await self._app(scope, self._limit_body(scope, receive), send)
        finally:
            self._counter.active -= 1

    def _is_authorized(self, authorization: str) -> bool:
        key = self._settings.api_key
        if key is None:
            return True
        scheme, _, token = authorization.partition(" ")
        # Constant-time comparison.
        matches = hmac.compare_digest(token.strip().encode(), key.get_secret_value().encode())
        return scheme.lower() == "bearer" and matches

    def _limit_body(self, scope: Scope, receive: Receive) -> Receive:
        """Wrap `receive` so that it raises once the body exceeds the limit."""
        limit = self._settings.max_body
        declared = Headers(scope=scope).get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            if size > limit:
                raise _too_large(size, limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(received, limit)
            return message

        return limited


def _too_large(size: int, limit: int) -> HTTPException:
    return HTTPException(413, f"the body has {size} bytes or more; the maximum is {limit}")
