"""A line of the input as a question: its id, its conversation, its own settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph_arbitrage.errors import DataError

__all__ = ["NEUTRAL", "Question", "read_options", "read_question"]

URL = "/v1/chat/completions"
_INT, _NUMBER, _TEXTS = (int,), (int, float), (str, list)
OPTIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "max_tokens": ("max_tokens", _INT),
    "max_completion_tokens": ("max_tokens", _INT),
    "temperature": ("temperature", _NUMBER),
    "top_p": ("top_p", _NUMBER),
    "top_k": ("top_k", _INT),
    "seed": ("seed", _INT),
    "stop": ("stop", _TEXTS),
    "threshold": ("threshold", _NUMBER),
    "max_steps": ("max_steps", _INT),
    "max_step_tokens": ("max_step_tokens", _INT),
    "timeout": ("timeout", _NUMBER),
}
"""Fields of a body that override a setting for its line: which one, and of what type."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
}
"""Fields that would change the answer and are not known here, with the values that do not.
Other fields (model, user, metadata, …) change nothing and are passed over."""


@dataclass(frozen=True)
class Question:
    """What a line asks; or why it cannot be asked."""

    number: int
    """Its line, from 1."""
    id: str
    digest: str
    """Of what the line says, whatever its spaces and the order of its fields."""
    messages: list[Any] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None
    """Why it cannot be asked."""

    def without_id(self, fault: str) -> Question:
        """The same line as one that has no usable id of its own."""
        own = f"line-{self.number}-{self.digest[:8]}"
        return Question(self.number, own, self.digest, fault=fault)


def read_question(number: int, line: bytes) -> Question:
    """The question of a line: OpenAI's batch form, or plain `messages` or `prompt`."""
    digest = hashlib.blake2b(line, digest_size=8).hexdigest()
    bare = Question(number, "", digest)
    try:
        record = json.loads(line)
    except RecursionError:
        return bare.without_id("it is nested too deeply")
    except UnicodeDecodeError:
        return bare.without_id("it is no valid UTF-8 text")
    except ValueError as error:
        return bare.without_id(f"it is no JSON: {error}")
    if not isinstance(record, dict):
        return bare.without_id(f"it must be a JSON object, not {_shown(record)}")
    same = json.dumps(record, sort_keys=True).encode()
    digest = hashlib.blake2b(same, digest_size=8).hexdigest()
    bare = Question(number, "", digest)
    identity = record.get("custom_id")
    if identity is None:
        identity = bare.without_id("").id
        if "body" in record:
            return bare.without_id("custom_id is missing")
    elif not isinstance(identity, str) or not identity:
        return bare.without_id(f"custom_id must be a text, not {_shown(identity)}")
    try:
        return Question(number, identity, digest, *_body(record))
    except DataError as error:
        return Question(number, identity, digest, fault=str(error))


def _body(record: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Messages and options of a line."""
    body = record
    if "body" in record:
        if record.get("url", URL) != URL:
            raise DataError(f"url must be {URL}, not {_shown(record['url'])}")
        if record.get("method", "POST") != "POST":
            raise DataError(f"method must be POST, not {_shown(record['method'])}")
        body = record["body"]
        if not isinstance(body, dict):
            raise DataError(f"body must be a JSON object, not {_shown(body)}")
    messages = body.get("messages")
    if messages is None:
        prompt = body.get("prompt")
        if prompt is None:
            raise DataError("it has neither messages nor a prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"prompt must be a text that is not empty, not {_shown(prompt)}")
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise DataError(f"messages must be a list that is not empty, not {_shown(messages)}")
    return messages, read_options(body)


def read_options(
    body: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL
) -> dict[str, Any]:
    """The settings that a body overrides.

    Args:
        body: Its fields.
        neutral: Those that are not supported, with the values that change nothing.

    Raises:
        DataError: A field is not supported, or of another type.
    """
    for name, allowed in neutral.items():
        value = body.get(name)
        if value is not None and value not in allowed:
            raise DataError(f"{name}={_shown(value)} is not supported: leave it out")
    found = {}
    for name, (setting, types) in OPTIONS.items():
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, types) or isinstance(value, bool):
            kinds = " or ".join(t.__name__ for t in types)
            raise DataError(f"{name} must be of type {kinds}, not {_shown(value)}")
        if isinstance(value, list) and not all(isinstance(text, str) for text in value):
            raise DataError(f"{name} must be texts, not {_shown(value)}")
        found[setting] = value
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
