"""Chat models for the tests, over tiny models that are loaded once a module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langgraph_arbitrage import ChatArbitrage
from spies import fed, loads, schedulers
from tiny import pair

__all__ = ["chat", "fed", "loads", "schedulers"]


@pytest.fixture(scope="module")
def chat() -> Iterator[Callable[..., ChatArbitrage]]:
    """Makes chat models; those of a module share their models until its end."""
    made: list[ChatArbitrage] = []

    def make(**settings: Any) -> ChatArbitrage:
        models = pair(endless=True) if "target" not in settings else {}
        llm = ChatArbitrage(
            **{"separator": " ", "min_step_tokens": 1, "max_steps": 1000} | models | settings
        )
        made.append(llm)
        return llm

    yield make
    for llm in made:
        llm.close()
