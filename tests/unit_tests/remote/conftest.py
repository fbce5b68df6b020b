"""Fixtures: a server of the tiny models, and a proxy that records and changes its requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

from fronts import MODELS, Front
from langgraph_arbitrage import ChatArbitrage
from langgraph_arbitrage.serve import ServeSettings
from langgraph_arbitrage.serve.app import create_app
from serving import Served


@pytest.fixture
def front() -> Front:
    llm = ChatArbitrage(**MODELS, max_tokens=60)
    return Front(create_app(llm, ServeSettings()))


@pytest.fixture
def server(front: Front) -> Iterator[Served]:
    running = Served(front, grace=0)
    yield running
    running.stop()
