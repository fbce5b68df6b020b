"""Options of the command line from the fields of a pydantic config: one text for both."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from langgraph_arbitrage.errors import ArbitrageError, SettingsError

__all__ = ["add_fields", "config_of"]

_Config = TypeVar("_Config", bound=BaseModel)
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_fields(
    parser: argparse.ArgumentParser, config: type[BaseModel], names: Sequence[str] | None = None
) -> None:
    """Add an option for each field, or for those named, with the field's own text and default."""
    for name, field in config.model_fields.items():
        if names is not None and name not in names:
            continue
        flag = "--" + name.replace("_", "-")
        text = " ".join((field.description or "").split()).replace("%", "%%")
        options: dict[str, Any] = {"dest": name}
        if field.is_required():
            options["required"] = True
        elif field.default is not None and field.annotation is not bool:
            text += f" (default: {field.default})"
        kind: Any = field.annotation
        if get_origin(kind) is UnionType:
            kind = next(k for k in get_args(kind) if k is not type(None))
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            options |= {"choices": choices, "type": type(choices[0])}
        elif kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": kind, "metavar": _METAVARS.get(kind, "VALUE")}
        parser.add_argument(flag, help=text, **options)


def config_of(args: argparse.Namespace, config: type[_Config]) -> _Config:
    """The config that the arguments ask for.

    Raises:
        SettingsError: A value is outside its range.
    """
    given = {n: v for n in config.model_fields if (v := getattr(args, n, None)) is not None}
    try:
        return config(**given)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ArbitrageError):
            raise cause from None
        flag = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise SettingsError(f"{flag} {first['input']}: {first['msg']}") from None
