"""What an answer may be: calls of which tools, JSON of which schema."""

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

__all__ = ["OutputConstraints", "ResponseFormat", "answer_parser", "chosen"]

NOTE = "Answer with a JSON object of this schema: {schema}"
ANY_OBJECT = {"type": "object", "additionalProperties": True}


class OutputConstraints(TypedDict):
    """The form of an answer as state: plain data."""

    tools: list[dict[str, Any]]
    """Tools that may be called."""
    grammars: dict[str, str]
    """The grammar that each writer's answer is decoded under, where there is one."""
    spans: list[list[str]]
    """Openings and closings of calls that a step holds whole."""


@dataclass(frozen=True)
class ResponseFormat:
    """What an answer may be, as it was asked for."""

    tools: tuple[Tool, ...] = ()
    """Tools that are offered to the model."""
    choice: str = "auto"
    """`auto`, `any`, or the name of the one tool that is to be called."""
    several: bool | None = None
    """Whether several calls may stand in an answer; None: where the model chooses to."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of an answer that is no call."""
    note: str = ""
    """What the model is told of the schema."""

    @classmethod
    def of(
        cls,
        tools: Any = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
    ) -> ResponseFormat:
        """Read what a caller asked for, in LangChain's and OpenAI's words.

        Raises:
            SettingsError: A tool, a choice or a format is none that is known.
            GrammarError: A schema is too large.
        """
        offered = tuple(offered_tools(tools or ()))
        choice = chosen(tool_choice, [tool["function"]["name"] for tool in offered])
        if choice == "none":
            offered, choice = (), "auto"
        schema, note = _response(response_format)
        return cls(offered, choice, parallel_tool_calls, schema, note)

    @property
    def forced(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice != "auto"

    @property
    def strict(self) -> bool:
        """Whether a call is decoded under its schema where the model chooses to make one.

        So it is by default, where the extra is installed: a call that cannot be made helps nobody.
        """
        wanted = [tool["function"].get("strict") for tool in self.tools]
        free = bool(wanted) and False not in wanted
        return any(wanted) or (free and find_spec("llguidance") is not None)

    def constraints(
        self,
        templates: Mapping[str, Template],
        marks: Callable[[str], Mapping[str, int]],
    ) -> OutputConstraints:
        """The form for each writer.

        Args:
            templates: The template of each writer.
            marks: Tells for a writer which tokens its grammar has to name by their ids.

        Raises:
            GrammarError: A writer's form of calls is not known, so that it cannot be forced.
        """
        grammars = {}
        if self.forced or self.strict or self.schema is not None:
            found = {role: self._grammar(t, marks(role)) for role, t in templates.items()}
            grammars = {role: grammar for role, grammar in found.items() if grammar is not None}
        spans = {
            (opening, form.closes)
            for template in templates.values()
            for form in _forms(template)
            for opening in form.opens
            if self.tools and form.closes
        }
        return OutputConstraints(
            tools=[dict(tool) for tool in self.tools],
            grammars=grammars,
            spans=[list(span) for span in sorted(spans)],
        )

    def _grammar(self, template: Template, marks: Mapping[str, int]) -> str | None:
        callable_tools = [
            tool for tool in self.tools if self.choice in ("auto", "any", tool["function"]["name"])
        ]
        form = next(iter(_forms(template)), None)
        if callable_tools and form is None:
            raise GrammarError(
                f"{template.tokenizer.name} writes tool calls in a form that is not known here, so "
                "that they cannot be forced: leave the choice to the model (tool_choice='auto')"
            )
        free = not self.forced and self.schema is None
        if free and (form is None or not marks.keys() & set(form.opens)):
            return None  # a call cannot be told from text before it is written
        thinking = None
        if template.thinks:
            closes = dict(THINKING)
            opening = template.opened or _mark_in(template)
            thinking = (None if template.opened else opening, closes[opening])
        return answer_grammar(
            form=form,
            tools=callable_tools,
            free=free,
            several=bool(self.several) if self.forced else self.several is not False,
            schema=None if self.forced else self.schema,
            thinking=thinking,
            marks=marks,
        )


def chosen(choice: Any, names: list[str]) -> str:
    """A tool choice in any of the usual forms as `auto`, `any`, `none`, or a tool's name.

    Raises:
        SettingsError: It names no offered tool, or there is nothing to choose from.
    """
    if isinstance(choice, Mapping):
        kind, function = choice.get("type"), choice.get("function")
        named = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        choice = named or kind
    if choice in (None, "auto"):
        return "auto"
    if choice in (False, "none"):
        return "none"
    allowed = f"auto, any, none or one of the tools: {', '.join(names) or 'there are none'}"
    if choice in (True, "any", "required"):
        if not names:
            raise SettingsError("a tool call is demanded, and no tool is offered: give tools")
        return "any"
    if choice not in names:
        raise SettingsError(f"tool_choice {choice!r} is not {allowed}")
    return str(choice)


def _response(wanted: Any) -> tuple[Mapping[str, Any] | None, str]:
    """The schema that an answer is decoded under, and the note that tells the model of it."""
    if wanted is None or wanted == {"type": "text"}:
        return None, ""
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        # A schema may come along: then the text has to fit it, and its author tells the model.
        inner = wanted.get("schema")
        return (ANY_OBJECT if inner is None else answer_schema(inner)), ""
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        inner = wanted.get("json_schema")
        if not isinstance(inner, Mapping) or "schema" not in inner:
            raise SettingsError(
                "response_format of type json_schema needs {'json_schema': {'name': ..., "
                f"'schema': {{...}}}}, not {wanted!r}"
            )
        wanted = inner["schema"]
    schema = answer_schema(wanted)
    shown = {k: v for k, v in without_titles(schema).items() if k != "description"}
    return schema, NOTE.format(schema=json.dumps(shown))


def _mark_in(template: Template) -> str:
    source = template.tokenizer.chat_template or ""
    return next(opening for opening, _ in THINKING if opening in source)


def _forms(template: Template) -> list[CallFormat]:
    """How a writer may write calls: as its template does, or as the note tells it to."""
    from langgraph_arbitrage.prompts.chat_template import FALLBACK_FORM

    if template.form is not None:
        return [template.form]
    return [] if template.tokenizer.response_template else [FALLBACK_FORM]


def answer_parser(templates: Sequence[Template], tools: Sequence[Tool]) -> Parser:
    """The parser of an answer whose writers have these templates, the first step's first."""
    first = templates[0]
    for template in templates:
        described = template.tokenizer.response_template
        if described:
            return TemplateParser(template.tokenizer, described, tools, first.opened)
    forms = {type(form): form for t in templates for form in _forms(t)} if tools else {}
    return AnswerParser(list(forms.values()), tools, dict(THINKING).get(first.opened or ""))
