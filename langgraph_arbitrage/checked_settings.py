"""Settings whose errors are ours, wherever they are set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from langgraph_arbitrage.errors import ArbitrageError, SettingsError
from langgraph_arbitrage.removed import refuse_removed

__all__ = ["CheckedSettings"]


class CheckedSettings(BaseModel):
    """Settings whose errors are ours; the texts under the fields are the commands' help too."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **settings: Any) -> None:
            refuse_removed(settings)
            try:
                super().__init__(**settings)
            except ValidationError as error:  # pydantic wraps what a validator raises
                raise _refusal(error, type(self)) from None


def _refusal(error: ValidationError, settings: type[BaseModel]) -> ArbitrageError:
    """What pydantic refused, as an error of ours."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ArbitrageError):
        return cause
    name = str(first["loc"][0])  # what follows are pydantic's own names of types
    if first["type"] == "extra_forbidden":
        known = ", ".join(settings.model_fields)
        return SettingsError(f"{name} is no setting; those known are {known}")
    return SettingsError(f"{name}: {first['msg']}, not {first['input']!r}")
