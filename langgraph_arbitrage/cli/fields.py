"""Options of the command line from the fields of pydantic configs: one text for both."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from langgraph_arbitrage.errors import SettingsError

__all__ = ["add_fields", "config_of"]

_Config = TypeVar("_Config", bound=BaseModel)
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_fields(parser: argparse.ArgumentParser, configs: Mapping[str, type[BaseModel]]) -> None:
    """Add an option for each field, with the field's own text and default.

    Args:
        parser: Where to.
        configs: One or several, by the name of each; an option says to which of them it belongs.
    """
    for name in dict.fromkeys(name for c in configs.values() for name in c.model_fields):
        fields = {k: c.model_fields[name] for k, c in configs.items() if name in c.model_fields}
        texts = {k: _help(field) for k, field in fields.items()}
        if len(fields) == len(configs) and len(set(texts.values())) == 1:
            text = next(iter(texts.values()))
        else:
            text = " ".join(f"{k}: {text}" for k, text in texts.items())
        field = next(iter(fields.values()))
        parser.add_argument(
            _flag(name), dest=name, required=field.is_required(), help=text, **_kind(field)
        )


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("%", "%%")
    if field.is_required() or field.default is None:
        return text
    default = {"True": "yes", "False": "no"}.get(str(field.default), field.default)
    return f"{text} (default: {default})"


def _kind(field: FieldInfo) -> dict[str, Any]:
    kind: Any = field.annotation
    if get_origin(kind) is UnionType:
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return {"choices": choices, "type": type(choices[0])}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": kind, "metavar": _METAVARS[kind]}


def config_of(
    args: argparse.Namespace, config: type[_Config], others: Mapping[str, type[BaseModel]] = {}
) -> _Config:
    """The config that the arguments ask for.

    Args:
        args: The command line.
        config: Which one.
        others: Configs whose options are there too, by their names.

    Raises:
        SettingsError: A value is outside its range, or an option belongs to another config.
    """
    given = {n: v for n in config.model_fields if (v := getattr(args, n, None)) is not None}
    for kind, other in others.items():
        for name in other.model_fields.keys() - config.model_fields.keys():
            if getattr(args, name, None) is not None:
                raise SettingsError(f"{_flag(name)} is an option of {kind} only")
    try:
        return config(**given)
    except ValidationError as error:
        first = error.errors()[0]
        flag = _flag("-".join(map(str, first["loc"])))
        raise SettingsError(f"{flag} {first['input']}: {first['msg']}") from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
