"""JSON schemas of tools and answers: taken in, closed, and compared with what was written."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from langgraph_arbitrage.errors import GrammarError, SettingsError

__all__ = ["answer_schema", "check_size", "closed", "misfit", "offered_tools", "without_titles"]

LARGEST = 200_000  # characters of JSON; compiling more takes seconds, and no context holds it

BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}

Schema = Mapping[str, Any]


def offered_tools(tools: Sequence[Any], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Functions, pydantic classes, tools and JSON schemas in OpenAI's form.

    Of several with one name the last is offered.

    Raises:
        SettingsError: One of them is no tool that can be called here.
    """
    found = []
    for tool in tools:
        try:
            converted = convert_to_openai_tool(tool, strict=strict)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise SettingsError(f"{tool!r} cannot be offered as a tool: {error}") from error
        function = converted.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise SettingsError(
                f"a tool of type {converted.get('type')!r} runs at a provider and cannot be called "
                "here: give a function, a tool, a pydantic class or a JSON schema with a title"
            )
        check_size(function, f"the tool {function['name']}")
        found.append(converted)
    return list({tool["function"]["name"]: tool for tool in found}.values())


def answer_schema(schema: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """The JSON schema of a pydantic class, typed dict, OpenAI function or JSON schema.

    Raises:
        SettingsError: It is none of these.
        GrammarError: It is too large.
    """
    if isinstance(schema, Mapping) and "title" not in schema and "name" not in schema:
        found = dict(schema) if "function" not in schema else convert_to_json_schema(dict(schema))
    else:
        try:
            found = convert_to_json_schema(schema, strict=strict)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise SettingsError(f"{schema!r} is no schema of an answer: {error}") from error
    check_size(found, "the schema of the answer")
    return found


def check_size(schema: Schema, what: str) -> None:
    """Raise unless a schema is plain JSON of a size that can be compiled."""
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{what} is not plain JSON: {error}") from error
    if size > LARGEST:
        raise GrammarError(
            f"{what} has {size} characters of JSON schema, and at most {LARGEST} are compiled. "
            "Leave out descriptions, or split it."
        )


def without_titles(schema: Any) -> Any:
    """A schema without the titles that pydantic puts everywhere: shorter to read for a model."""
    if isinstance(schema, list):
        return [without_titles(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: {name: without_titles(part) for name, part in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping)
        else without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def closed(schema: Any) -> Any:
    """A schema whose objects take no properties beyond those it names, unless it says so.

    What fits the closed schema fits the open one, and a model cannot go on inventing keys.
    """
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {
        key: {name: closed(part) for name, part in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping)
        else closed(value)
        if key in ("items", "prefixItems", "anyOf", "oneOf", "additionalProperties")
        else value
        for key, value in schema.items()
    }
    combined = found.keys() & {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
    if found.get("properties") is not None and not combined:
        found.setdefault("additionalProperties", False)
    return found


# --- comparing ---------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def misfit(value: Any, schema: Any, root: Schema | None = None, at: str = "it") -> str | None:
    """Why a value does not fit a JSON schema; None where it does.

    Type, enum, const, properties, items, bounds, lengths, patterns, combinations and local
    references are compared; other keywords are not.
    """
    if schema is False:
        return f"{at} is not allowed"
    if not isinstance(schema, Mapping):
        return None
    root = schema if root is None else root
    reference = schema.get("$ref")
    parts = [_resolved(reference, root)] if isinstance(reference, str) else []
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{at} is no {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        return f"{at} is not {schema['const']!r}"
    for part in [*parts, *schema.get("allOf", ())]:
        if wrong := misfit(value, part, root, at):
            return wrong
    for key in ("anyOf", "oneOf"):
        if schema.get(key) and all(misfit(value, part, root, at) for part in schema[key]):
            return f"{at} fits nothing of its {key}"
    if isinstance(value, dict):
        return _object_misfit(value, schema, root, at)
    if isinstance(value, list):
        return _array_misfit(value, schema, root, at)
    return _bound_misfit(value, schema, at)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    whole = (
        kind != "integer"
        or isinstance(value, int)
        or (isinstance(value, float) and value.is_integer())
    )
    return isinstance(value, _TYPES.get(kind, (object,))) and whole


def _resolved(reference: str, root: Schema) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            found = found.get(part, {}) if isinstance(found, Mapping) else {}
    return found


def _object_misfit(value: dict[str, Any], schema: Schema, root: Schema, at: str) -> str | None:
    properties = schema.get("properties") or {}
    if missing := [key for key in schema.get("required", ()) if key not in value]:
        return f"{at} lacks {', '.join(missing)}"
    others = schema.get("additionalProperties", True)
    for key, part in value.items():
        if key not in properties and others is False and not schema.get("patternProperties"):
            return f"{at} has {key!r}, which its schema does not name"
        if wrong := misfit(part, properties.get(key, others), root, f"{at}.{key}"):
            return wrong
    return None


def _array_misfit(value: list[Any], schema: Schema, root: Schema, at: str) -> str | None:
    if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
        return f"{at} has {len(value)} items"
    first = schema.get("prefixItems", ())
    for i, part in enumerate(value):
        items = first[i] if i < len(first) else schema.get("items", True)
        if wrong := misfit(part, items, root, f"{at}[{i}]"):
            return wrong
    return None


def _bound_misfit(value: Any, schema: Schema, at: str) -> str | None:
    if isinstance(value, str):
        n = len(value)
        if n < schema.get("minLength", 0) or n > schema.get("maxLength", n):
            return f"{at} has {n} characters"
        if isinstance(pattern := schema.get("pattern"), str):
            try:
                return None if re.search(pattern, value) else f"{at} does not match {pattern}"
            except re.error:
                return None  # another dialect than Python's
    if isinstance(value, int | float) and not isinstance(value, bool):
        for key, keeps in BOUNDS.items():
            bound = schema.get(key)
            if isinstance(bound, int | float) and not keeps(value, bound):
                return f"{at} is {value}, and its {key} is {bound}"
    return None
