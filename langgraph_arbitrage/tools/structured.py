"""Answers that fit a schema, parsed."""

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
    """A chat model followed by a parser of its answer; see `ChatArbitrage`."""
    if method not in METHODS:
        raise SettingsError(f"method {method!r} is not one of {', '.join(METHODS)}")
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    bound: Runnable[Any, Any]
    parser: Runnable[Any, Any]
    if method == "function_calling":
        (tool,) = offered_tools([schema], strict=strict)
        name = tool["function"]["name"]
        bound = llm.bind_tools([tool], tool_choice=name, ls_structured_output_format=told, **kwargs)
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        form = answer_schema(schema, strict=strict)
        wanted = (
            {"type": "json_object", "schema": form}
            if method == "json_mode"
            else {"type": "json_schema", "json_schema": {"name": form.get("title"), "schema": form}}
        )
        bound = llm.bind(response_format=wanted, ls_structured_output_format=told, **kwargs)
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
