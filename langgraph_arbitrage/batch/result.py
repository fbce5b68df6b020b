"""Output records in the format of OpenAI's batch API."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch.request import BatchRequest
from langgraph_arbitrage.errors import (
    AnswerTimeoutError,
    ArbitrageError,
    DataError,
    EngineError,
    NotEnoughMemoryError,
)
from langgraph_arbitrage.utils.openai_format import chat_completion

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

__all__ = ["error_record", "is_error_record", "request_digest", "status_of", "success_record"]

ID_PREFIX = "arbitrage-"
"""Marks the ids of records that this package wrote. The request's digest follows."""
STATUS: dict[type[Exception], tuple[int, str]] = {
    AnswerTimeoutError: (408, "timeout"),
    NotEnoughMemoryError: (500, "out_of_memory"),
    EngineError: (500, "engine_error"),
}
"""HTTP status and error code of errors that the request did not cause."""
INVALID_REQUEST = (400, "invalid_request")
INTERNAL_ERROR = (500, "internal_error")


def success_record(request: BatchRequest, message: AIMessage) -> dict[str, Any]:
    """The record of an answered request."""
    body = chat_completion(message, _without_folder(message.response_metadata["model_name"]))
    return _record(request, 200, body, None)


def error_record(request: BatchRequest, error: Exception) -> dict[str, Any]:
    """The record of a request that failed."""
    status, code = status_of(error)
    message = f"line {request.line_number}: {error}"
    return _record(
        request, status, None, {"code": code, "message": message, "line": request.line_number}
    )


def status_of(error: Exception) -> tuple[int, str]:
    """HTTP status and error code of an exception."""
    matches = (status for kind, status in STATUS.items() if isinstance(error, kind))
    return next(matches, INVALID_REQUEST if isinstance(error, ArbitrageError) else INTERNAL_ERROR)


def _record(request: BatchRequest, status: int, body: Any, error: Any) -> dict[str, Any]:
    return {
        "id": ID_PREFIX + request.digest,
        "custom_id": request.custom_id,
        "response": {
            "status_code": status,
            "request_id": f"req-{uuid.uuid4().hex}",
            "body": body,
        },
        "error": error,
    }


def is_error_record(record: Any) -> bool:
    """Whether an output record reports a failure.

    Raises:
        DataError: The record is not an output record of a batch job.
    """
    match record:
        case {"custom_id": str(), "error": error, "response": None | {"status_code": int()}}:
            response = record["response"]
            return error is not None or response is None or response["status_code"] != 200
    raise DataError("not an output line of a batch job")


def request_digest(record: Any) -> str | None:
    """The digest of the request that a record answers; None if another program wrote it."""
    record_id = record.get("id")
    if isinstance(record_id, str) and record_id.startswith(ID_PREFIX):
        return record_id.removeprefix(ID_PREFIX)
    return None


def _without_folder(model: str) -> str:
    """A model's name without its local folder."""
    return Path(model).name if Path(model).exists() else model
