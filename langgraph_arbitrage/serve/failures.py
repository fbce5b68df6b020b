"""Errors as OpenAI's clients know them: a status, and an object that says why."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from langgraph_arbitrage.batch.result import status_of
from langgraph_arbitrage.errors import ArbitrageError, EngineBusyError, EngineClosedError

__all__ = ["add_handlers", "clean", "failure", "refused"]

logger = logging.getLogger(__name__)

LATER = {"Retry-After": "1"}
SHOWN = 300  # characters of what a client sent that are told back


def failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status of an error, and what is told of it."""
    status, code = status_of(error)
    if isinstance(error, EngineBusyError | EngineClosedError):
        status, code = 503, "busy"
    if not isinstance(error, ArbitrageError):
        return status, told("the server failed; its log says why", code)
    return status, told(str(error), code, status)


def told(message: str, code: str, status: int = 500) -> dict[str, Any]:
    """An error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refused(status: int, message: str, code: str) -> JSONResponse:
    """The answer to a request that is not begun."""
    headers = LATER if status == 503 else {}
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse(clean(told(message, code, status)), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Have every error answered in this form."""

    @app.exception_handler(ArbitrageError)
    async def ours(request: Request, error: ArbitrageError) -> JSONResponse:
        status, body = failure(error)
        if status >= 500:
            logger.error("%s failed", request.url.path, exc_info=error)
        return JSONResponse(clean(body), status, LATER if status == 503 else {})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        given = first.get("input")
        shown = f", not {given!r}"[:SHOWN] if where and isinstance(given, str | int | float) else ""
        return refused(400, f"{where or 'the body'}: {first['msg']}{shown}", "invalid_request")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        return refused(
            error.status_code, error.detail, codes.get(error.status_code, "invalid_request")
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return refused(500, "the server failed; its log says why", "internal_error")


def clean(body: dict[str, Any]) -> dict[str, Any]:
    """Without halves of surrogate pairs, which no UTF-8 text holds."""
    message = body["error"]["message"].encode("utf-8", "replace").decode()
    return {"error": body["error"] | {"message": message}}
