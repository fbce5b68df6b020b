"""Request bodies of the HTTP API. Field docstrings are also descriptions in the OpenAPI schema."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from langgraph_arbitrage.batch.request import UNSUPPORTED, parse_options
from langgraph_arbitrage.errors import DataError, SettingsError
from langgraph_arbitrage.prompts.user_text import SpecialTokensInText

__all__ = ["ChatCompletionRequest", "CompletionRequest"]

CHAT_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Body fields that the chat model takes unchanged."""
CHAT_UNSUPPORTED = {
    name: allowed
    for name, allowed in UNSUPPORTED.items()
    if name not in ("stream", "logprobs", "tools", "response_format")
}
"""Unsupported fields of /v1/chat/completions, with the neutral values that are accepted."""
COMPLETION_UNSUPPORTED = {
    **{name: values for name, values in UNSUPPORTED.items() if name not in ("stream", "logprobs")},
    "echo": (False,),
    "suffix": ("",),
    "min_tokens": (0,),
    "ignore_eos": (False,),
}
"""Unsupported fields of /v1/completions, with the neutral values that are accepted."""


class FunctionCall(BaseModel):
    """Name and arguments of a tool call."""

    name: str
    arguments: str
    """JSON."""


class ToolCall(BaseModel):
    """A tool call of the assistant."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    """Text, or content parts of type `text`."""
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    """With role `tool`: id of the tool call that this message is the result of."""


class FunctionDefinition(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class StreamOptions(BaseModel):
    """Options of a streamed response."""

    include_usage: bool = False


class _Body(BaseModel):
    """Fields of both kinds of requests. Unknown fields are ignored."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: str | None = None
    """The pair, or draft or target alone. Default: the pair for chat completions, the target for
    completions."""
    stream: bool | None = False
    """Stream the answer as server-sent events."""
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    seed: int | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    """Token ids, in the target's vocabulary, that end the answer besides its end tokens."""

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        """Reject unpaired surrogates, which JSON escapes can express but no tokenizer accepts."""
        try:
            json.dumps(self.fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("the request is not valid UTF-8 text") from None
        except RecursionError:
            raise ValueError("the request is nested too deeply") from None
        return self

    @property
    def include_usage(self) -> bool:
        """True if a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def fields(self) -> dict[str, Any]:
        """Fields that the client sent, without nulls."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class ChatCompletionRequest(_Body):
    """Body of a request to /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """The conversation in OpenAI's format."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    """Return the log-probability of each token under the model that wrote it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the chat templates of both models, such as {"enable_thinking": false}."""
    draft_chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the draft's chat template. They override chat_template_kwargs."""
    target_chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the target's chat template. They override chat_template_kwargs."""
    continue_final_message: bool | None = None
    """Continue the last message, which must be the assistant's, instead of answering it."""
    special_tokens_in_text: SpecialTokensInText | None = None
    """What to do with special tokens in the text of users and tools."""
    threshold: float | None = None
    """Threshold of the policy for this answer."""
    timeout: float | None = Field(default=None, gt=0)
    """Time limit of the answer, in seconds."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of the chat model's call.

        Raises:
            DataError: A field is not supported or has the wrong type.
        """
        fields = self.fields
        options = parse_options(fields, CHAT_UNSUPPORTED)
        if isinstance(stop := options.get("stop"), str):
            options["stop"] = [stop]
        options |= {name: fields[name] for name in CHAT_OPTIONS if name in fields}
        if self.logprobs:
            options["logprobs"] = True
        return options


class CompletionRequest(_Body):
    """Body of a request to /v1/completions: draft or target continues a prompt."""

    prompt: str | list[int] = Field(min_length=1)
    """Text, or token ids of the model."""
    logprobs: Literal[0, 1] | None = None
    """Return the log-probability of each token."""
    prompt_logprobs: Literal[0, 1] | None = None
    """Return the log-probability and rank of each prompt token, in the format of vLLM. Not
    available with `stream`."""
    prompt_logprobs_start: int | None = Field(default=None, ge=1)
    """Index of the first prompt token that `prompt_logprobs` scores. Tokens before it may come from
    the cache. Default: 1, since token 0 has no context."""
    return_token_ids: bool | None = False
    """Also return the token ids of the answer."""
    add_special_tokens: bool | None = True
    """Prepend the special tokens of the tokenizer to a text. Disable it for rendered prompts."""

    def check(self) -> None:
        """Raise `DataError` if a field is not supported."""
        parse_options(self.fields | {"timeout": None, "threshold": None}, COMPLETION_UNSUPPORTED)
        if self.stream and self.prompt_logprobs is not None:
            raise DataError("prompt_logprobs is not available with stream: set stream to false")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings.

        Raises:
            SettingsError: A stop string is empty.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if not all(stops):
            raise SettingsError(f"a stop string must not be empty: {stops!r}")
        return stops
