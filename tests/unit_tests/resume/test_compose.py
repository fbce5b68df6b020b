"""The graph among other graphs, and many threads on one checkpointer."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, Random, create_arbitrage_graph
from runs import ASK, STRICT, same_answer, thread
from tiny import QUESTIONS, make


class Parent(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    steps: list[dict[str, Any]]
    read: Annotated[list[tuple[int, str]], operator.add]


def notes(state: Parent) -> Parent:
    """A node that reads the step records of the node before it."""
    writers = "".join(s["writer"][0] for s in state["steps"])
    return {"read": [(sum(len(s["ids"]) for s in state["steps"]), writers)]}


OTHERS = {
    "draft": make("qwen2", 3, num_hidden_layers=2, endless=True, words=True),
    "target": make("qwen2", 4, endless=True, words=True),
}


@pytest.fixture
def parent(teams: Any) -> StateGraph[Any]:
    """Two loops with models, policies and limits of their own; a reader after each."""
    graph = StateGraph(Parent)
    first = teams(router=Random(0.5, seed=2), max_tokens=30)
    second = teams(**OTHERS, router=AlwaysTarget(), max_tokens=17)
    graph.add_node("first", create_arbitrage_graph(first).compile())
    graph.add_node("between", notes)
    graph.add_node("second", create_arbitrage_graph(second).compile())
    graph.add_node("after", notes)
    graph.add_edge(START, "first")
    graph.add_edge("first", "between")
    graph.add_edge("between", "second")
    graph.add_edge("second", "after")
    graph.add_edge("after", END)
    return graph


async def test_several_in_one_parent_each_with_its_models_and_limits(parent: Any) -> None:
    for saver in (None, InMemorySaver(serde=STRICT)):
        graph = parent.compile(checkpointer=saver)
        state = graph.invoke(ASK, thread())
        assert [m.type for m in state["messages"]] == ["human", "ai", "ai"]
        (tokens, writers), (more, others) = state["read"]
        assert (tokens, more) == (30, 17)
        assert set(writers) == {"d", "t"}
        assert set(others) == {"t"}
        names = [m.response_metadata["model_name"] for m in state["messages"][1:]]
        assert names[1] == OTHERS["target"] != names[0]
        again = await graph.ainvoke(ASK, thread("2"))
        assert [m.text for m in again["messages"]] == [m.text for m in state["messages"]]


def test_an_interrupt_inside_a_subgraph_stops_and_resumes_the_parent(teams: Any) -> None:
    graph = StateGraph(Parent)
    loop = create_arbitrage_graph(teams(approve="escalations")).compile()
    graph.add_node("reason", loop)
    graph.add_node("after", notes)
    graph.add_edge(START, "reason")
    graph.add_edge("reason", "after")
    asking = graph.compile(checkpointer=InMemorySaver(serde=STRICT))
    state = asking.invoke(ASK, thread())
    waits = 0
    while "__interrupt__" in state:
        waits += 1
        state = asking.invoke(Command(resume="escalate"), thread())
    assert waits > 2
    want = create_arbitrage_graph(teams()).compile().invoke(ASK, thread())
    assert state["messages"][-1].text == want["messages"][-1].text
    assert state["read"][0][1] == "".join(s["writer"][0] for s in want["steps"])


async def test_forty_threads_at_once_on_one_sqlite_file(teams: Any, tmp_path: Path) -> None:
    team = teams(max_tokens=13)
    questions = [f"{n} apples. {QUESTIONS[n % len(QUESTIONS)]}" for n in range(40)]
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
        saver.serde = STRICT
        graph = create_arbitrage_graph(team).compile(checkpointer=saver)
        asked = [{"messages": [("user", q)]} for q in questions]
        runs = [graph.ainvoke(a, thread(str(n))) for n, a in enumerate(asked)]
        states = await asyncio.gather(*runs)
        stored = [(await graph.aget_state(thread(str(n)))).values for n in range(40)]
    alone = create_arbitrage_graph(team).compile()
    for n, question in enumerate(questions):
        assert states[n]["messages"][0].text == question
        assert same_answer(stored[n], states[n])
    for n in range(0, 40, 9):
        assert same_answer(stored[n], alone.invoke(asked[n], thread()))


def test_checkpoints_grow_linearly(teams: Any) -> None:
    sizes = []
    for steps in (20, 40, 80):
        saver = InMemorySaver(serde=STRICT)
        team = teams(router=AlwaysDraft(), max_step_tokens=2, max_tokens=1000, max_steps=steps)
        graph = create_arbitrage_graph(team).compile(checkpointer=saver)
        assert len(graph.invoke(ASK, thread())["steps"]) == steps
        blobs = sum(len(b[1]) for b in saver.blobs.values())
        writes = sum(len(w[2][1]) for task in saver.writes.values() for w in task.values())
        checkpoints = sum(
            len(c[0][1]) for t in saver.storage.values() for n in t.values() for c in n.values()
        )
        sizes.append(blobs + writes + checkpoints)
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert second / first == pytest.approx(2, rel=0.15)
