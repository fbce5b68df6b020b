"""Fixtures: engines, loaded once per module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langgraph_arbitrage.engine import Engine, ModelSpec
from spies import fed, loads, schedulers

__all__ = ["engine", "fed", "fresh", "loads", "schedulers"]


def _engines() -> Iterator[Callable[..., Engine]]:
    made: dict[ModelSpec, Engine] = {}

    def make(path: str, **settings: Any) -> Engine:
        spec = ModelSpec(path, **settings)
        if spec not in made:
            made[spec] = Engine(spec)
        return made[spec]

    yield make
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Callable[..., Engine]]:
    """Create engines by path and settings, shared by the tests of a module."""
    yield from _engines()


@pytest.fixture
def fresh() -> Iterator[Callable[..., Engine]]:
    """Create engines by path and settings, for one test."""
    yield from _engines()
