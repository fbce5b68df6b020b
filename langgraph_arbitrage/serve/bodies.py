"""What a client may ask, as the OpenAPI description tells it."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from langgraph_arbitrage.batch.question import NEUTRAL, read_options
from langgraph_arbitrage.errors import SettingsError

__all__ = ["ChatBody", "TextBody"]

CHAT_FORM = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Fields of a body that say what the answer may be, for the chat model as they are."""
CHAT_NEUTRAL = {
    name: allowed
    for name, allowed in NEUTRAL.items()
    if name not in ("stream", "logprobs", "tools", "response_format")
}
TEXT_NEUTRAL = {
    **{name: allowed for name, allowed in NEUTRAL.items() if name not in ("stream", "logprobs")},
    "echo": (False,),
    "suffix": ("",),
    "min_tokens": (0,),
    "ignore_eos": (False,),
}


class CalledFunction(BaseModel):
    """What a call of the assistant's calls."""

    name: str
    arguments: str
    """JSON."""


class Call(BaseModel):
    """A call of the assistant's."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    """A text, or parts of type `text`."""
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    """With role `tool`: the call that this is the result of."""


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class StreamOptions(BaseModel):
    """How a stream is told."""

    include_usage: bool = False


class _Body(BaseModel):
    """What both kinds of requests have. Fields that change nothing here are passed over."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: str | None = None
    """The pair, or draft or target alone; the pair where there is none."""
    stream: bool | None = False
    """Tell the answer while it is written, as server-sent events."""
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    seed: int | None = None
    stop: str | list[str] | None = None

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        """JSON can spell halves of surrogate pairs, which no tokenizer takes."""
        try:
            json.dumps(self.fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it is no valid UTF-8 text") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return self

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def fields(self) -> dict[str, Any]:
        """What was given."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class ChatBody(_Body):
    """A request of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """The conversation in OpenAI's form."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    """Tell the log-probability of each token under the model that wrote it."""
    threshold: float | None = None
    """The policy's threshold for this answer."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds the answer may take."""

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the call.

        Raises:
            DataError: A field is not supported, or of another type.
        """
        fields = self.fields
        options = read_options(fields, CHAT_NEUTRAL)
        if isinstance(stop := options.get("stop"), str):
            options["stop"] = [stop]
        options |= {name: fields[name] for name in CHAT_FORM if name in fields}
        if self.logprobs:
            options["logprobs"] = True
        return options


class TextBody(_Body):
    """A request of /v1/completions: the draft or the target goes on from a text."""

    prompt: str | list[int] = Field(min_length=1)
    """A text, or the model's token ids."""
    logprobs: Literal[0, 1] | None = None
    """Tell the log-probability of each token."""
    return_token_ids: bool | None = False
    """Tell the token ids of the answer, too."""
    add_special_tokens: bool | None = True
    """Put before a text what the tokenizer puts before every text; not before a rendered prompt."""

    def check(self) -> None:
        """Raise `DataError` where a field is not supported."""
        read_options(self.fields | {"timeout": None, "threshold": None}, TEXT_NEUTRAL)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings.

        Raises:
            SettingsError: One is empty.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if not all(stops):
            raise SettingsError(f"a stop string must not be empty: {stops!r}")
        return stops
