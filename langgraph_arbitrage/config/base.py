"""Base class of all settings: clear errors, and the metadata for command-line flags."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from langgraph_arbitrage.config.removed import refuse_removed
from langgraph_arbitrage.errors import ArbitrageError, SettingsError

__all__ = ["CheckedSettings", "Flag", "unknown_setting"]

SYNONYMS = {
    "policy": "router",
    "scorer": "router",
    "model": "target",
    "model_name": "target",
    "target_model": "target",
    "draft_model": "draft",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "request_timeout": "timeout",
}
"""Maps setting names of other libraries to the setting with the same meaning."""


@dataclass(frozen=True)
class Flag:
    """Metadata of a field that the command line takes as an option.

    Choices, types and on/off switches follow from the field's annotation.
    """

    group: str
    """Group of the option. Commands add options by group."""
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    """Converts the option's text. Default: the annotation's type."""
    note: str = ""
    """Appended to the help text."""
    repeat: bool = False
    """Whether the option may be given several times."""


def unknown_setting(names: Iterable[str], known: Iterable[str]) -> SettingsError:
    """Return the error for unknown settings, with the nearest names.

    Example:
        >>> str(unknown_setting(["temprature"], ["temperature", "top_p"]))
        "Unknown setting 'temprature'. Did you mean 'temperature'?"
        >>> str(unknown_setting(["policy"], ["router", "threshold"]))
        "Unknown setting 'policy'. Did you mean 'router'?"
    """
    known = list(known)
    told = []
    for name in sorted(names):
        near = [SYNONYMS[name]] if SYNONYMS.get(name) in known else []
        near += [n for n in difflib.get_close_matches(name, known, n=2) if n not in near]
        hint = " or ".join(map(repr, near))
        told.append(
            f"Unknown setting {name!r}. Did you mean {hint}?"
            if near
            else f"Unknown setting {name!r}. docs/settings.md lists all settings."
        )
    return SettingsError(" ".join(told))


class CheckedSettings(BaseModel):
    """Pydantic model that raises `SettingsError` instead of pydantic's `ValidationError`.

    The docstring under each field is its description, here and in the command line's help.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **settings: Any) -> None:
            refuse_removed(settings)
            if unknown := settings.keys() - self._accepted_names():
                raise unknown_setting(unknown, type(self).model_fields)
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise _settings_error(error) from None

    @classmethod
    def _accepted_names(cls) -> set[str]:
        """Return the arguments of the constructor: fields and their aliases."""
        aliases = {f.alias for f in cls.model_fields.values() if f.alias}
        return {*cls.model_fields, *aliases}


def _settings_error(error: ValidationError) -> ArbitrageError:
    """Convert the first error of a `ValidationError`."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ArbitrageError):
        return cause
    name = str(first["loc"][0])  # further entries name pydantic's internal types
    return SettingsError(f"{name}: {first['msg']}, not {first['input']!r}")
