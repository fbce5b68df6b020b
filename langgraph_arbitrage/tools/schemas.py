"""JSON schemas of tools and answers: conversion, size limit and validation."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from langgraph_arbitrage.errors import GrammarError, SettingsError

__all__ = [
    "answer_schema",
    "check_size",
    "forbid_extra_properties",
    "offered_tools",
    "validation_error",
    "without_titles",
]

MAX_SCHEMA_LENGTH = 200_000
"""Maximum length of a schema in characters of JSON. Longer ones take seconds to compile and exceed
the context of most models."""

BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}
"""Maps a keyword to the comparison of a value with the bound."""

Schema = Mapping[str, Any]


def offered_tools(tools: Sequence[Any], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Convert tools to OpenAI's format. If tools share a name, the last one is used.

    Args:
        tools: Functions, tools, pydantic classes or JSON schemas.
        strict: `strict` setting of the tools. Default: unset.

    Raises:
        SettingsError: A tool cannot be converted, or a provider would have to execute it.
        GrammarError: A schema is too large.
    """
    converted_tools = []
    for tool in tools:
        try:
            converted = convert_to_openai_tool(tool, strict=strict)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise SettingsError(f"{tool!r} cannot be used as a tool: {error}") from error
        function = converted.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise SettingsError(
                f"tools of type {converted.get('type')!r} are executed by a provider and are not "
                "supported. Pass a function, a tool, a pydantic class or a JSON schema with a title"
            )
        check_size(function, f"the tool {function['name']}")
        converted_tools.append(converted)
    return list({tool["function"]["name"]: tool for tool in converted_tools}.values())


def answer_schema(schema: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Convert a pydantic class, typed dict, OpenAI function or JSON schema to a JSON schema.

    Args:
        schema: The schema in any of these forms.
        strict: Forbid properties that the schema does not define. Default: unset.

    Raises:
        SettingsError: The schema has none of these forms.
        GrammarError: The schema is too large.
    """
    if isinstance(schema, Mapping) and "title" not in schema and "name" not in schema:
        plain = dict(schema)
        converted = convert_to_json_schema(plain) if "function" in schema else plain
    else:
        try:
            converted = convert_to_json_schema(schema, strict=strict)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise SettingsError(
                f"{schema!r} cannot be used as the schema of an answer: {error}"
            ) from error
    check_size(converted, "the answer's schema")
    return converted


def check_size(schema: Schema, name: str) -> None:
    """Raise unless a schema is JSON-serializable and at most `MAX_SCHEMA_LENGTH` long.

    Args:
        schema: The schema.
        name: Name of the schema, for error messages.

    Raises:
        SettingsError: The schema cannot be serialized.
        GrammarError: The schema is too large.
    """
    try:
        length = len(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{name} cannot be serialized to JSON: {error}") from error
    if length > MAX_SCHEMA_LENGTH:
        raise GrammarError(
            f"{name} has {length} characters of JSON schema; the maximum is {MAX_SCHEMA_LENGTH}. "
            "Shorten its descriptions or split it"
        )


def without_titles(schema: Any) -> Any:
    """Return a copy without the titles that pydantic generates, to shorten the prompt."""
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


def forbid_extra_properties(schema: Any) -> Any:
    """Return a copy whose objects forbid undefined properties unless the schema allows them.

    Values of the returned schema are valid under the original one. The model cannot add any number
    of invented keys.
    """
    if isinstance(schema, list):
        return [forbid_extra_properties(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy = {
        key: {name: forbid_extra_properties(part) for name, part in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping)
        else forbid_extra_properties(value)
        if key in ("items", "prefixItems", "anyOf", "oneOf", "additionalProperties")
        else value
        for key, value in schema.items()
    }
    combined = copy.keys() & {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
    if copy.get("properties") is not None and not combined:
        copy.setdefault("additionalProperties", False)
    return copy


# --- validation --------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def validation_error(
    value: Any, schema: Any, root: Schema | None = None, path: str = "value"
) -> str | None:
    """Return the reason why a value is invalid under a JSON schema; None if it is valid.

    Supports type, enum, const, properties, items, bounds, lengths, patterns, combinations and local
    references. Other keywords are ignored.

    Args:
        value: The value.
        schema: The schema, or a part of it.
        root: The schema that references refer to. Default: `schema`.
        path: Path of the value, for the message.
    """
    if schema is False:
        return f"{path} is not allowed"
    if not isinstance(schema, Mapping):
        return None
    root = schema if root is None else root
    reference = schema.get("$ref")
    parts = [_resolve(reference, root)] if isinstance(reference, str) else []
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_has_type(value, name) for name in types):
        return f"{path} is not of type {' or '.join(types)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        return f"{path} is not {schema['const']!r}"
    for part in [*parts, *schema.get("allOf", ())]:
        if error := validation_error(value, part, root, path):
            return error
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if options and all(validation_error(value, part, root, path) for part in options):
            return f"{path} matches none of its {key} schemas"
    if isinstance(value, dict):
        return _object_error(value, schema, root, path)
    if isinstance(value, list):
        return _array_error(value, schema, root, path)
    return _scalar_error(value, schema, path)


def _has_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    integral = (
        name != "integer"
        or isinstance(value, int)
        or (isinstance(value, float) and value.is_integer())
    )
    return isinstance(value, _TYPES.get(name, (object,))) and integral


def _resolve(reference: str, root: Schema) -> Any:
    """Resolve a local reference such as `#/$defs/Part`; an unknown one allows any value."""
    schema: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            schema = schema.get(part, {}) if isinstance(schema, Mapping) else {}
    return schema


def _object_error(value: dict[str, Any], schema: Schema, root: Schema, path: str) -> str | None:
    properties = schema.get("properties") or {}
    if missing := [key for key in schema.get("required", ()) if key not in value]:
        return f"{path} lacks required properties: {', '.join(missing)}"
    additional = schema.get("additionalProperties", True)
    for key, part in value.items():
        if key not in properties and additional is False and not schema.get("patternProperties"):
            return f"{path} has the undefined property {key!r}"
        part_schema = properties.get(key, additional)
        if error := validation_error(part, part_schema, root, f"{path}.{key}"):
            return error
    return None


def _array_error(value: list[Any], schema: Schema, root: Schema, path: str) -> str | None:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if len(value) < low or len(value) > high:
        return f"{path} has an invalid number of items: {len(value)}"
    first = schema.get("prefixItems", ())
    for i, part in enumerate(value):
        items = first[i] if i < len(first) else schema.get("items", True)
        if error := validation_error(part, items, root, f"{path}[{i}]"):
            return error
    return None


def _scalar_error(value: Any, schema: Schema, path: str) -> str | None:
    if isinstance(value, str):
        length = len(value)
        if length < schema.get("minLength", 0) or length > schema.get("maxLength", length):
            return f"{path} has an invalid number of characters: {length}"
        if isinstance(pattern := schema.get("pattern"), str):
            try:
                matches = re.search(pattern, value)
            except re.error:
                return None  # the pattern is valid in ECMAScript, but not in Python
            return None if matches else f"{path} does not match the pattern {pattern}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        for key, satisfies in BOUNDS.items():
            bound = schema.get(key)
            if isinstance(bound, int | float) and not satisfies(value, bound):
                return f"{path} is {value}, but its {key} is {bound}"
    return None
