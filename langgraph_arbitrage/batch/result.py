"""A line of the output, in the form of OpenAI's batches."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch.question import Question
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

__all__ = ["answered", "digest_of", "failed", "has_failed", "status_of"]

PREFIX = "arbitrage-"
STATUS: dict[type[Exception], tuple[int, str]] = {
    AnswerTimeoutError: (408, "timeout"),
    NotEnoughMemoryError: (500, "out_of_memory"),
    EngineError: (500, "engine_error"),
}
"""Status and code of errors that are not the line's own fault."""
BAD_LINE = (400, "invalid_request")
BUG = (500, "internal_error")


def answered(question: Question, message: AIMessage) -> dict[str, Any]:
    """The line of an answer."""
    body = chat_completion(message, _public(message.response_metadata["model_name"]))
    return _line(question, 200, body, None)


def failed(question: Question, error: Exception) -> dict[str, Any]:
    """The line of a question that was not answered."""
    status, code = status_of(error)
    message = f"line {question.number}: {error}"
    return _line(
        question, status, None, {"code": code, "message": message, "line": question.number}
    )


def status_of(error: Exception) -> tuple[int, str]:
    """HTTP status and code of an error."""
    known = (found for kind, found in STATUS.items() if isinstance(error, kind))
    return next(known, BAD_LINE if isinstance(error, ArbitrageError) else BUG)


def _line(question: Question, status: int, body: Any, error: Any) -> dict[str, Any]:
    return {
        "id": PREFIX + question.digest,
        "custom_id": question.id,
        "response": {
            "status_code": status,
            "request_id": f"req-{uuid.uuid4().hex}",
            "body": body,
        },
        "error": error,
    }


def has_failed(record: Any) -> bool:
    """Whether a line of an output tells of a failure.

    Raises:
        DataError: It is no such line.
    """
    match record:
        case {"custom_id": str(), "error": error, "response": None | {"status_code": int()}}:
            response = record["response"]
            return error is not None or response is None or response["status_code"] != 200
    raise DataError("it is no line of a batch output")


def digest_of(record: Any) -> str | None:
    """Digest of the question that a line answers; None where another program wrote the line."""
    identity = record.get("id")
    ours = isinstance(identity, str) and identity.startswith(PREFIX)
    return identity.removeprefix(PREFIX) if ours else None


def _public(model: str) -> str:
    """A model's name without the folder that it lies in here."""
    return Path(model).name if Path(model).exists() else model
