"""Errors in the format of OpenAI's API: an HTTP status and an error object."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from langgraph_arbitrage.batch.result import status_of
from langgraph_arbitrage.errors import ArbitrageError, EngineBusyError, EngineClosedError

__all__ = ["add_exception_handlers", "error_response", "status_and_body", "without_surrogates"]

logger = logging.getLogger(__name__)

RETRY_LATER = {"Retry-After": "1"}
"""Headers of a response with status 503. Retry-After is in seconds."""
MAX_ECHO = 300
"""Maximum number of characters of an invalid value that an error message repeats."""
INTERNAL_ERROR = "internal server error. The server's log has the details"


def status_and_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for an exception. Unexpected exceptions are not described."""
    status, code = status_of(error)
    if isinstance(error, EngineBusyError | EngineClosedError):
        status, code = 503, "busy"
    if not isinstance(error, ArbitrageError):
        return status, error_body(INTERNAL_ERROR, code)
    return status, error_body(str(error), code, status)


def error_body(message: str, code: str, status: int = 500) -> dict[str, Any]:
    """An error object in the format of OpenAI's API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_response(status: int, message: str, code: str) -> JSONResponse:
    """The response to a request that is refused."""
    headers = RETRY_LATER if status == 503 else {}
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse(without_surrogates(error_body(message, code, status)), status, headers)


def add_exception_handlers(app: FastAPI) -> None:
    """Make the app answer every exception with an error object."""

    @app.exception_handler(ArbitrageError)
    async def handle_arbitrage_error(request: Request, error: ArbitrageError) -> JSONResponse:
        status, body = status_and_body(error)
        if status >= 500:
            logger.error("%s failed", request.url.path, exc_info=error)
        return JSONResponse(without_surrogates(body), status, RETRY_LATER if status == 503 else {})

    @app.exception_handler(RequestValidationError)
    async def handle_validation_error(
        request: Request, error: RequestValidationError
    ) -> JSONResponse:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"][1:])
        value = first.get("input")
        echo = (
            f", not {value!r}"[:MAX_ECHO] if path and isinstance(value, str | int | float) else ""
        )
        return error_response(400, f"{path or 'the body'}: {first['msg']}{echo}", "invalid_request")

    @app.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        return error_response(
            error.status_code, error.detail, codes.get(error.status_code, "invalid_request")
        )

    @app.exception_handler(Exception)
    async def handle_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, INTERNAL_ERROR, "internal_error")


def without_surrogates(body: dict[str, Any]) -> dict[str, Any]:
    """Replace unpaired surrogates in the message of an error, because UTF-8 cannot encode them."""
    message = body["error"]["message"].encode("utf-8", "replace").decode()
    return {"error": body["error"] | {"message": message}}
