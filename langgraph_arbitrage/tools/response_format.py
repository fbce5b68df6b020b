"""The requested format of an answer: tools, tool choice and JSON schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypedDict

from langgraph_arbitrage.errors import GrammarError, SettingsError
from langgraph_arbitrage.tools.formats import CallFormat, Tool
from langgraph_arbitrage.tools.grammar import answer_grammar
from langgraph_arbitrage.tools.parser import THINKING, AnswerParser, Parser
from langgraph_arbitrage.tools.schemas import answer_schema, offered_tools, without_titles
from langgraph_arbitrage.tools.template_parser import TemplateParser

if TYPE_CHECKING:
    from langgraph_arbitrage.prompts.chat_template import Template

__all__ = ["OutputConstraints", "ResponseFormat", "answer_parser", "parse_tool_choice"]

NOTE = "Answer with a JSON object of this schema: {schema}"
ANY_OBJECT = {"type": "object", "additionalProperties": True}


class OutputConstraints(TypedDict):
    """A response format in the graph's state, as plain data."""

    tools: list[dict[str, Any]]
    """Tools that the model may call."""
    grammars: dict[str, str]
    """Maps a writer to the grammar that constrains its answer. Unconstrained writers are absent."""
    spans: list[list[str]]
    """Opening and closing marks of calls. A step does not end inside a call."""


@dataclass(frozen=True)
class ResponseFormat:
    """The format of an answer, as requested by the caller."""

    tools: tuple[Tool, ...] = ()
    """Tools that the model may call."""
    choice: str = "auto"
    """`auto` (the model decides), `any` (the model must call a tool), or the name of the tool that
    it must call."""
    parallel_calls: bool | None = None
    """True if an answer may have several calls. None: allowed unless a call is forced."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of an answer without a call."""
    note: str = ""
    """Description of the schema for the model's prompt."""

    @classmethod
    def of(
        cls,
        tools: Any = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
    ) -> ResponseFormat:
        """Build the format from the arguments of a LangChain or OpenAI call.

        Args:
            tools: Functions, tools, pydantic classes or JSON schemas.
            tool_choice: A tool choice, as accepted by `parse_tool_choice`.
            parallel_tool_calls: Allow several calls in one answer.
            response_format: OpenAI's `response_format`, a pydantic class, a typed dict or a JSON
                schema.

        Raises:
            SettingsError: A tool, the tool choice or the response format is invalid.
            GrammarError: A schema is too large.
        """
        offered = tuple(offered_tools(tools or ()))
        choice = parse_tool_choice(tool_choice, [tool["function"]["name"] for tool in offered])
        if choice == "none":
            offered, choice = (), "auto"
        schema, note = _parse_response_format(response_format)
        return cls(offered, choice, parallel_tool_calls, schema, note)

    @property
    def call_required(self) -> bool:
        """True if the answer must be a call."""
        return self.choice != "auto"

    @property
    def strict(self) -> bool:
        """True if calls that the model decides to make are constrained by the tools' schemas.

        A tool's `strict` setting decides. By default, calls are constrained if llguidance is
        installed, because a call with invalid arguments cannot be executed.
        """
        flags = [tool["function"].get("strict") for tool in self.tools]
        default = bool(flags) and False not in flags
        return any(flags) or (default and find_spec("llguidance") is not None)

    def constraints(
        self,
        templates: Mapping[str, Template],
        marks: Callable[[str], Mapping[str, int]],
    ) -> OutputConstraints:
        """Build the constraints of each writer.

        Args:
            templates: Chat template of each writer.
            marks: Maps a writer to its tokens that the grammar must refer to by id.

        Raises:
            GrammarError: Calls must be constrained, but the format of a writer's calls is unknown.
        """
        grammars = {}
        if self.call_required or self.strict or self.schema is not None:
            built = {role: self._grammar(t, marks(role)) for role, t in templates.items()}
            grammars = {role: grammar for role, grammar in built.items() if grammar is not None}
        spans = {
            (opening, call_format.closing_mark)
            for template in templates.values()
            for call_format in _call_formats(template)
            for opening in call_format.opening_marks
            if self.tools and call_format.closing_mark
        }
        return OutputConstraints(
            tools=[dict(tool) for tool in self.tools],
            grammars=grammars,
            spans=[list(span) for span in sorted(spans)],
        )

    def _grammar(self, template: Template, marks: Mapping[str, int]) -> str | None:
        """Build the grammar of one writer; None if its answer cannot be constrained."""
        callable_tools = [
            tool for tool in self.tools if self.choice in ("auto", "any", tool["function"]["name"])
        ]
        call_format = next(iter(_call_formats(template)), None)
        if callable_tools and call_format is None:
            raise GrammarError(
                f"tool calls of {template.tokenizer.name} cannot be constrained, because their "
                "format is unknown. Set tool_choice='auto' and strict=False, without a "
                "response_format"
            )
        free_text = not self.call_required and self.schema is None
        if free_text and (call_format is None or not marks.keys() & set(call_format.opening_marks)):
            # Without a mark of a single token, a grammar cannot tell calls from text.
            return None
        thinking = None
        if template.supports_thinking:
            opening = template.opening_mark or _opening_mark(template)
            closing = dict(THINKING)[opening]
            thinking = (None if template.opening_mark else opening, closing)
        return answer_grammar(
            call_format=call_format,
            tools=callable_tools,
            free_text=free_text,
            parallel_calls=bool(self.parallel_calls)
            if self.call_required
            else self.parallel_calls is not False,
            schema=None if self.call_required else self.schema,
            thinking=thinking,
            marks=marks,
        )


def parse_tool_choice(choice: Any, names: list[str]) -> str:
    """Convert LangChain's or OpenAI's tool choice to `auto`, `any`, `none` or a tool's name.

    Args:
        choice: None, a bool, a string, or a mapping with a name or type.
        names: Names of the tools.

    Raises:
        SettingsError: The choice is not the name of a tool, or there are no tools.
    """
    if isinstance(choice, Mapping):
        kind, function = choice.get("type"), choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        choice = name or kind
    if choice in (None, "auto"):
        return "auto"
    if choice in (False, "none"):
        return "none"
    if choice in (True, "any", "required"):
        if not names:
            raise SettingsError(
                f"tool_choice={choice!r} requires a tool call, but no tools were passed. Pass "
                "tools, or remove tool_choice"
            )
        return "any"
    if choice not in names:
        raise SettingsError(
            f"invalid tool_choice {choice!r}: set auto, any, none or the name of a tool "
            f"({', '.join(names) or 'no tools were passed'})"
        )
    return str(choice)


def _parse_response_format(value: Any) -> tuple[Mapping[str, Any] | None, str]:
    """Return the schema that constrains the answer, and the note for the prompt."""
    if value is None or value == {"type": "text"}:
        return None, ""
    if isinstance(value, Mapping) and value.get("type") == "json_object":
        # The schema is optional. The caller's prompt describes it, so there is no note.
        schema = value.get("schema")
        return (ANY_OBJECT if schema is None else answer_schema(schema)), ""
    if isinstance(value, Mapping) and value.get("type") == "json_schema":
        inner = value.get("json_schema")
        if not isinstance(inner, Mapping) or "schema" not in inner:
            raise SettingsError(
                f"invalid response_format {value!r}: the type json_schema requires "
                "{'json_schema': {'name': ..., 'schema': {...}}}"
            )
        value = inner["schema"]
    schema = answer_schema(value)
    shown = {k: v for k, v in without_titles(schema).items() if k != "description"}
    return schema, NOTE.format(schema=json.dumps(shown))


def _opening_mark(template: Template) -> str:
    """Return the opening mark of thinking in the template's source."""
    source = template.tokenizer.chat_template or ""
    return next(opening for opening, _ in THINKING if opening in source)


def _call_formats(template: Template) -> list[CallFormat]:
    """Return the template's call format, or the one that the tool note in the prompt describes.

    Empty if the checkpoint has a response template, which parses its calls.
    """
    from langgraph_arbitrage.prompts.chat_template import FALLBACK_FORMAT

    if template.call_format is not None:
        return [template.call_format]
    return [] if template.tokenizer.response_template else [FALLBACK_FORMAT]


def answer_parser(templates: Sequence[Template], tools: Sequence[Tool]) -> Parser:
    """Build the parser of an answer.

    Args:
        templates: Chat templates of the answer's writers, the first step's writer first.
        tools: Tools that the model may call.
    """
    first = templates[0]
    for template in templates:
        response_template = template.tokenizer.response_template
        if response_template:
            return TemplateParser(template.tokenizer, response_template, tools, first.opening_mark)
    formats = {type(fmt): fmt for t in templates for fmt in _call_formats(t)} if tools else {}
    closing_mark = dict(THINKING).get(first.opening_mark or "")
    return AnswerParser(list(formats.values()), tools, closing_mark)
