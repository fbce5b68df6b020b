"""Warn once per process that the embedded models are a demo."""

from __future__ import annotations

import warnings
from functools import cache

__all__ = ["DemoModelsWarning", "warn_once"]

TEXT = (
    "The embedded models are a 0.1M/3M-parameter demo that solves generated word problems and "
    "nothing else. Pass draft= and target= to use your own models."
)


class DemoModelsWarning(UserWarning):
    """The demo models are used because no other models were specified."""


@cache
def warn_once() -> None:
    """Warn about the demo models at the first call in this process."""
    warnings.warn(TEXT, DemoModelsWarning, stacklevel=3)
