"""Kinds of settings: what may be written for one, and the value that it stands for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf

from langgraph_arbitrage.policies import LearnedRouter, Policy

__all__ = ["ModelName", "Router", "Texts", "Threshold", "number", "policy_of", "text", "texts"]


def texts(value: Any) -> Any:
    """One text or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def text(value: Any) -> Any:
    """A path object as a text."""
    return str(value) if hasattr(value, "__fspath__") else value


def number(value: Any) -> Any:
    """A number that is written as a text, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def policy_of(value: Any) -> Any:
    """A router's checkpoint as the policy that uses it."""
    value = text(value)
    return LearnedRouter(value) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(texts)]
ModelName = Annotated[str, BeforeValidator(text)]
Threshold = Annotated[float | str, BeforeValidator(number)]
Router = Annotated[InstanceOf[Policy] | str, BeforeValidator(policy_of)]
