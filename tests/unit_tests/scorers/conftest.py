"""Fixtures: models that own the scorers' engines."""

from collections.abc import Iterator

import pytest

from langgraph_arbitrage import ArbitrageSettings, Models
from spies import fed
from tiny import pair

__all__ = ["fed", "models"]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """Models of the tiny pair, closed after the module. The tests load scorers only."""
    models = Models(ArbitrageSettings(**pair()))
    yield models
    models.close()
