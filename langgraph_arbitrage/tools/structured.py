"""Structured output: a chat model whose answers are constrained by a schema and parsed."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.tools.schemas import answer_schema, offered_tools

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["structured"]

METHODS = ("json_schema", "function_calling", "json_mode")


def structured(
    llm: BaseChatModel,
    schema: Any,
    *,
    method: str,
    include_raw: bool,
    strict: bool | None,
    **kwargs: Any,
) -> Runnable[Any, Any]:
    """Chain a chat model and a parser of its answers.

    Args:
        llm: The chat model.
        schema: A pydantic class, a typed dict, a JSON schema or an OpenAI function.
        method: One of `METHODS`; see `ChatArbitrage.with_structured_output`.
        include_raw: Return the message and any parsing error in addition to the parsed object.
        strict: Forbid properties that the schema does not define.
        kwargs: Further options of the call.

    Raises:
        SettingsError: The method or the schema is invalid.
        GrammarError: The schema is too large.
    """
    if method not in METHODS:
        raise SettingsError(f"invalid method {method!r}: set one of {', '.join(METHODS)}")
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    # Read by LangChain's tracing.
    trace = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    bound: Runnable[Any, Any]
    parser: Runnable[Any, Any]
    if method == "function_calling":
        (tool,) = offered_tools([schema], strict=strict)
        name = tool["function"]["name"]
        bound = llm.bind_tools(
            [tool], tool_choice=name, ls_structured_output_format=trace, **kwargs
        )
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        converted = answer_schema(schema, strict=strict)
        named = {"name": converted.get("title"), "schema": converted}
        response_format = (
            {"type": "json_object", "schema": converted}
            if method == "json_mode"
            else {"type": "json_schema", "json_schema": named}
        )
        bound = llm.bind(
            response_format=response_format, ls_structured_output_format=trace, **kwargs
        )
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
