"""Field types of settings: accepted values and their conversion."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf

from langgraph_arbitrage.policies import LearnedRouter, Policy

__all__ = ["ModelName", "Router", "Texts", "Threshold", "to_number", "to_policy", "to_texts"]


def to_texts(value: Any) -> Any:
    """Convert one string or several to a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _to_text(value: Any) -> Any:
    """Convert a path object to a string."""
    return str(value) if hasattr(value, "__fspath__") else value


def to_number(value: Any) -> Any:
    """Convert a numeric string to a number; return anything else unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def to_policy(value: Any) -> Any:
    """Convert the path of a trained router to the policy that uses it."""
    value = _to_text(value)
    return LearnedRouter(value) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(to_texts)]
ModelName = Annotated[str, BeforeValidator(_to_text)]
Threshold = Annotated[float | str, BeforeValidator(to_number)]
Router = Annotated[InstanceOf[Policy] | str, BeforeValidator(to_policy)]
