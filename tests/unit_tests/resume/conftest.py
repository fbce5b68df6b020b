"""One team of tiny models for the graphs of a module, and an answer that nothing disturbed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_arbitrage import ArbitrageSettings, Models, create_arbitrage_graph
from runs import ASK, SETTINGS, STRICT, thread
from spies import fed, loads

__all__ = ["fed", "loads"]

Compile = Callable[..., Any]


@pytest.fixture(scope="module")
def teams() -> Iterator[Callable[..., Models]]:
    """Makes teams; those of a module share their models until its end."""
    made: list[Models] = []

    def make(**settings: Any) -> Models:
        made.append(Models(ArbitrageSettings(**SETTINGS | settings)))
        return made[-1]

    yield make
    for team in made:
        team.close()


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield InMemorySaver(serde=STRICT)
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints")) as found:
            found.serde = STRICT
            yield found


@pytest.fixture
def compiled(teams: Callable[..., Models]) -> Compile:
    """Compiles the graph with a checkpointer and settings; in memory where none is given."""

    def compile_graph(checkpointer: Any = None, **settings: Any) -> Any:
        if checkpointer is None:
            checkpointer = InMemorySaver(serde=STRICT)
        return create_arbitrage_graph(teams(**settings)).compile(checkpointer=checkpointer)

    return compile_graph


@pytest.fixture(scope="module")
def unbroken(teams: Callable[..., Models]) -> dict[str, Any]:
    """The state at the end of a run that nothing disturbed."""
    return create_arbitrage_graph(teams()).compile().invoke(ASK, thread())
