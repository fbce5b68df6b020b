"""Evaluation: questions with answers, policies and thresholds swept over them, and the report.

Importing this package is cheap: what needs torch, sympy or matplotlib is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_arbitrage.evaluation.grading import Grader, grade

__all__ = ["Grader", "grade"]

_HOMES = {"Grader": "grading", "grade": "grading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
