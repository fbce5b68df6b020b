"""Threads that another version of the package has stored."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_arbitrage import create_arbitrage_graph
from langgraph_arbitrage.errors import ThreadError
from langgraph_arbitrage.persistence.time_travel import fork, list_steps, resume, rewind
from langgraph_arbitrage.state import STATE_VERSION
from runs import SETTINGS, thread

STORED = Path(__file__).parent / "data" / "threads_of_state_version_1.sqlite3"
REFUSAL = rf"state version 1; this one reads {STATE_VERSION}.* messages are intact"


@pytest.fixture
def graph(tmp_path: Path) -> Any:
    """A graph over a copy of the stored threads "finished" and "in progress"."""
    copy = shutil.copy(STORED, tmp_path / "threads.sqlite")
    with SqliteSaver.from_conn_string(str(copy)) as saver:
        yield create_arbitrage_graph(**SETTINGS).compile(checkpointer=saver)


def test_an_answer_in_progress_is_refused_wherever_it_continues(graph: Any) -> None:
    assert graph.get_state(thread("in progress")).next == ("route",)
    for use in (resume, list_steps, lambda g, c: g.invoke(None, c)):
        with pytest.raises(ThreadError, match=REFUSAL):
            use(graph, thread("in progress"))


def test_steps_of_a_finished_answer_are_neither_rewound_nor_forked(graph: Any) -> None:
    with pytest.raises(ThreadError, match=REFUSAL):
        rewind(graph, thread("finished"), 0)
    with pytest.raises(ThreadError, match=REFUSAL):
        fork(graph, thread("finished"), 0, thread="fork")


def test_a_finished_conversation_continues_with_a_new_message(graph: Any) -> None:
    state = graph.invoke({"messages": [("user", "And then?")]}, thread("finished"))
    assert [message.type for message in state["messages"]] == ["human", "ai", "human", "ai"]
    assert state["version"] == STATE_VERSION
    assert list_steps(graph, thread("finished")) == state["steps"]
