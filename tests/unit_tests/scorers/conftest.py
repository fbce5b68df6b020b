"""Models that own the scorers' engines, closed at the end of a module."""

from collections.abc import Iterator

import pytest

from langgraph_arbitrage import ArbitrageSettings, Models
from spies import fed
from tiny import pair

__all__ = ["fed", "models"]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """The tiny pair, which no test here loads, and whatever scorers are asked."""
    team = Models(ArbitrageSettings(**pair()))
    yield team
    team.close()
