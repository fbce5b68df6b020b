"""A line of the output, in the form of OpenAI's batches."""

from __future__ import annotations

import time
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

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

__all__ = ["answered", "digest_of", "failed", "has_failed"]

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
    figures = message.response_metadata["arbitrage"]
    usage = message.usage_metadata or {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    body = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": _public(message.response_metadata["model_name"]),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": message.text},
                "logprobs": None,
                "finish_reason": "stop" if figures["finish_reason"] == "stop" else "length",
            }
        ],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        },
        "arbitrage": {
            "steps": len(figures["steps"]),
            "escalated": sum(s["writer"] == "target" for s in figures["steps"]),
            **{name: figures[name] for name in FIGURES},
        },
    }
    return _line(question, 200, body, None)


FIGURES = (
    *("escalation_rate", "draft_tokens", "target_tokens", "kept_tokens", "discarded_tokens"),
    "finish_reason",
)


def failed(question: Question, error: Exception) -> dict[str, Any]:
    """The line of a question that was not answered."""
    known = (found for kind, found in STATUS.items() if isinstance(error, kind))
    status, code = next(known, BAD_LINE if isinstance(error, ArbitrageError) else BUG)
    message = f"line {question.number}: {error}"
    return _line(
        question, status, None, {"code": code, "message": message, "line": question.number}
    )


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
