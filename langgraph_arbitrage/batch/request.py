"""Parses a line of the input into a request: custom_id, messages and options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph_arbitrage.errors import DataError

__all__ = ["UNSUPPORTED", "BatchRequest", "parse_options", "parse_request"]

URL = "/v1/chat/completions"
_INT, _NUMBER, _TEXTS = (int,), (int, float), (str, list)
OPTIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "max_tokens": ("max_tokens", _INT),
    "max_completion_tokens": ("max_tokens", _INT),
    "temperature": ("temperature", _NUMBER),
    "top_p": ("top_p", _NUMBER),
    "top_k": ("top_k", _INT),
    "seed": ("seed", _INT),
    "min_p": ("min_p", _NUMBER),
    "stop": ("stop", _TEXTS),
    "stop_token_ids": ("stop_token_ids", (list,)),
    "chat_template_kwargs": ("chat_template_kwargs", (dict,)),
    "draft_chat_template_kwargs": ("draft_chat_template_kwargs", (dict,)),
    "target_chat_template_kwargs": ("target_chat_template_kwargs", (dict,)),
    "continue_final_message": ("continue_final_message", (bool,)),
    "special_tokens_in_text": ("special_tokens_in_text", (str,)),
    "threshold": ("threshold", _NUMBER),
    "max_steps": ("max_steps", _INT),
    "min_step_tokens": ("min_step_tokens", _INT),
    "max_step_tokens": ("max_step_tokens", _INT),
    "timeout": ("timeout", _NUMBER),
}
"""Body fields that override a setting for one request: name of the setting and allowed types."""
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
}
"""Unsupported body fields that would change the answer, with their neutral values, which are
accepted. Fields that do not change the answer, such as model, user and metadata, are ignored."""


@dataclass(frozen=True)
class BatchRequest:
    """A line of the input. A line that cannot be parsed has an `error`."""

    line_number: int
    """Line of the input, from 1."""
    custom_id: str
    digest: str
    """Hash of the line's JSON, independent of whitespace and field order."""
    messages: list[Any] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    """Why the line cannot be answered."""

    def rejected(self, error: str) -> BatchRequest:
        """The same line with an error and a generated id, because it has no usable custom_id."""
        custom_id = f"line-{self.line_number}-{self.digest[:8]}"
        return BatchRequest(self.line_number, custom_id, self.digest, error=error)


def parse_request(line_number: int, line: bytes) -> BatchRequest:
    """Parse a line: an OpenAI batch request, or an object with `messages` or `prompt`.

    Malformed lines become requests with an `error`; parsing never raises.
    """
    digest = hashlib.blake2b(line, digest_size=8).hexdigest()
    bare = BatchRequest(line_number, "", digest)
    try:
        record = json.loads(line)
    except RecursionError:
        return bare.rejected("the JSON is nested too deeply")
    except UnicodeDecodeError:
        return bare.rejected("the line is not valid UTF-8 text")
    except ValueError as error:
        return bare.rejected(f"the line is not valid JSON: {error}")
    if not isinstance(record, dict):
        return bare.rejected(f"the line must be a JSON object, not {_shortened(record)}")
    canonical = json.dumps(record, sort_keys=True).encode()
    digest = hashlib.blake2b(canonical, digest_size=8).hexdigest()
    bare = BatchRequest(line_number, "", digest)
    custom_id = record.get("custom_id")
    if custom_id is None:
        custom_id = bare.rejected("").custom_id
        if "body" in record:
            return bare.rejected("custom_id is missing")
    elif not isinstance(custom_id, str) or not custom_id:
        return bare.rejected(f"custom_id must be a non-empty string, not {_shortened(custom_id)}")
    try:
        return BatchRequest(line_number, custom_id, digest, *_parse_body(record))
    except DataError as error:
        return BatchRequest(line_number, custom_id, digest, error=str(error))


def _parse_body(record: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Messages and options of a line."""
    body = record
    if "body" in record:
        if record.get("url", URL) != URL:
            raise DataError(f"url must be {URL}, not {_shortened(record['url'])}")
        if record.get("method", "POST") != "POST":
            raise DataError(f"method must be POST, not {_shortened(record['method'])}")
        body = record["body"]
        if not isinstance(body, dict):
            raise DataError(f"body must be a JSON object, not {_shortened(body)}")
    messages = body.get("messages")
    if messages is None:
        prompt = body.get("prompt")
        if prompt is None:
            raise DataError("the line has neither messages nor a prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"prompt must be a non-empty string, not {_shortened(prompt)}")
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise DataError(f"messages must be a non-empty list, not {_shortened(messages)}")
    return messages, parse_options(body)


def parse_options(
    body: Mapping[str, Any], unsupported: Mapping[str, tuple[Any, ...]] = UNSUPPORTED
) -> dict[str, Any]:
    """Return the settings that a body overrides.

    Args:
        body: Fields of the body.
        unsupported: Fields that are not supported, with the neutral values that are accepted.

    Raises:
        DataError: A field is not supported or has the wrong type.
    """
    for name, allowed in unsupported.items():
        value = body.get(name)
        if value is not None and value not in allowed:
            raise DataError(f"{name}={_shortened(value)} is not supported. Remove the field")
    options = {}
    for name, (setting, types) in OPTIONS.items():
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            kinds = " or ".join(t.__name__ for t in types)
            raise DataError(f"{name} must be of type {kinds}, not {_shortened(value)}")
        item, items = (int, "integers") if name == "stop_token_ids" else (str, "strings")
        if isinstance(value, list) and not all(type(entry) is item for entry in value):
            raise DataError(f"{name} must contain only {items}, not {_shortened(value)}")
        options[setting] = value
    return options


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
