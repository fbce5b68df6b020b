"""A process is warned once that the embedded models are a demo."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langgraph_arbitrage import ChatArbitrage, create_arbitrage_graph
from langgraph_arbitrage.embedded.notice import DemoModelsWarning, warn_once
from tiny import pair


@pytest.fixture
def new_process() -> Iterator[None]:
    """Forget earlier warnings, as in a new process."""
    warn_once.cache_clear()
    yield
    warn_once.cache_clear()


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda: (create_arbitrage_graph(), create_arbitrage_graph(max_tokens=3)), 1),
        (lambda: (ChatArbitrage()._models, ChatArbitrage()._models), 1),
        (lambda: create_arbitrage_graph(**pair()), 0),
    ],
    ids=["graph", "chat model", "other models"],
)
def test_the_demo_pair_is_announced_once(use: Callable[[], Any], expected: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use()
    found = [w for w in caught if issubclass(w.category, DemoModelsWarning)]
    assert len(found) == expected
