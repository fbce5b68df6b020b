"""The state machine by itself: checkpoints, resumption, turns, and inside of other graphs."""

import operator
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ArbitrageSettings,
    ChatArbitrage,
    Context,
    DraftConfidence,
    Models,
    Random,
    create_arbitrage_graph,
)
from langgraph_arbitrage.errors import EngineError, MessageError
from tiny import QUESTIONS, pair

Chat = Callable[..., ChatArbitrage]
STRICT = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None)
SETTINGS: dict[str, Any] = {
    **pair(endless=True, words=True),
    "separator": (".", "\n"),
    "router": Random(0.5, seed=2),
    "max_tokens": 60,
    "max_step_tokens": 6,
    "min_step_tokens": 1,
}
ASK = {"messages": [("user", QUESTIONS[0])]}
THREAD: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": 1000}


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """One team for all graphs here, so that each is loaded once."""
    team = Models(ArbitrageSettings(**SETTINGS))
    yield team
    team.close()


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield InMemorySaver(serde=STRICT)
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints")) as found:
            found.serde = STRICT
            yield found


@pytest.fixture(scope="module")
def unbroken(models: Models) -> dict[str, Any]:
    """The state at the end of a run that nothing disturbed."""
    return create_arbitrage_graph(models).compile().invoke(ASK, {"recursion_limit": 1000})


def same_answer(state: dict[str, Any], wanted: dict[str, Any]) -> bool:
    parts = [
        (
            s["messages"][-1].text,
            [(step["writer"], step["ids"], step["score"]) for step in s["steps"]],
            s["finish_reason"],
        )
        for s in (state, wanted)
    ]
    return parts[0] == parts[1]


# --- alone -------------------------------------------------------------------------------


def test_its_nodes_are_those_of_the_method(models: Models) -> None:
    graph = create_arbitrage_graph(models)
    wanted = {"prepare", "draft", "route", "approve", "regenerate", "commit"}
    assert set(graph.nodes) == wanted
    drawn = graph.compile().get_graph().draw_mermaid()
    for edge in ("draft --> route", "route -.-> commit", "route -.-> approve"):
        assert edge in drawn.replace("&nbsp;", " ")


def test_its_answer_is_that_of_the_chat_model(unbroken: dict[str, Any], chat: Chat) -> None:
    message = chat(**SETTINGS).invoke(QUESTIONS[0])
    answer = unbroken["messages"][-1]
    assert answer.text == message.text
    assert answer.usage_metadata["output_tokens"] == 60
    assert answer.response_metadata.keys() == message.response_metadata.keys()
    assert {s["writer"] for s in unbroken["steps"]} == {"draft", "target"}


async def test_sync_and_async_give_the_same(models: Models, unbroken: dict[str, Any]) -> None:
    graph = create_arbitrage_graph(models).compile()
    state = await graph.ainvoke(ASK, {"recursion_limit": 1000})
    assert same_answer(state, unbroken)


def test_an_empty_conversation_is_refused(models: Models) -> None:
    graph = create_arbitrage_graph(models).compile()
    with pytest.raises(MessageError, match="conversation has no messages"):
        graph.invoke({"messages": []})


def test_a_run_may_have_settings_of_its_own(models: Models) -> None:
    graph = create_arbitrage_graph(models).compile()
    state = graph.invoke(ASK, {"recursion_limit": 1000}, context=Context(max_tokens=9, threshold=0))
    assert sum(len(s["ids"]) for s in state["steps"]) == 9
    assert {s["writer"] for s in state["steps"]} == {"draft"}


def test_events_tell_every_step(models: Models, unbroken: dict[str, Any]) -> None:
    graph = create_arbitrage_graph(models).compile()
    events = list(graph.stream(ASK, {"recursion_limit": 1000}, stream_mode="custom"))
    committed = [e for e in events if e["type"] == "committed"]
    assert [e["text"] for e in committed] == [s["text"] for s in unbroken["steps"]]
    assert [e["step"] for e in committed] == list(range(len(committed)))
    assert len([e for e in events if e["type"] == "drafted"]) == len(committed)
    for index, step in enumerate(unbroken["steps"]):
        deltas = [e for e in events if e["type"] == "target_delta" and e["step"] == index]
        told = "".join(e["text"] for e in deltas)
        assert told == (step["text"] if step["writer"] == "target" else "")
    assert events[-1]["type"] == "finished"
    assert events[-1]["text"] == unbroken["messages"][-1].text
    assert events[-1]["finish_reason"] == "length"


# --- checkpoints -------------------------------------------------------------------------


def test_a_checkpointed_run_is_the_unbroken_one(
    saver: Any, models: Models, unbroken: dict[str, Any]
) -> None:
    graph = create_arbitrage_graph(models).compile(checkpointer=saver)
    assert same_answer(graph.invoke(ASK, THREAD), unbroken)
    assert same_answer(graph.get_state(THREAD).values, unbroken)


async def test_a_checkpointed_async_run_is_the_unbroken_one(
    models: Models, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints")) as saver:
        saver.serde = STRICT
        graph = create_arbitrage_graph(models).compile(checkpointer=saver)
        assert same_answer(await graph.ainvoke(ASK, THREAD), unbroken)
        assert same_answer((await graph.aget_state(THREAD)).values, unbroken)


def test_the_state_is_plain_data(models: Models) -> None:
    """What strict msgpack gives back is what was put in."""
    graph = create_arbitrage_graph(models).compile(checkpointer=InMemorySaver())

    def check(value: Any) -> None:
        assert type(value) in (str, int, float, bool, type(None), list, dict), type(value)
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, list):
            for part in value:
                check(part)

    graph.invoke(ASK, THREAD)
    for snapshot in graph.get_state_history(THREAD):
        check({k: v for k, v in snapshot.values.items() if k != "messages"})


def test_a_second_turn_on_a_thread_answers_the_whole_conversation(
    saver: Any, models: Models
) -> None:
    graph = create_arbitrage_graph(models).compile(checkpointer=saver)
    first = graph.invoke(ASK, THREAD)
    second = graph.invoke({"messages": [("user", QUESTIONS[1])]}, THREAD)
    assert [m.type for m in second["messages"]] == ["human", "ai", "human", "ai"]
    assert second["messages"][1].text == first["messages"][1].text
    talk = [HumanMessage(QUESTIONS[0]), first["messages"][1], HumanMessage(QUESTIONS[1])]
    alone = create_arbitrage_graph(models).compile().invoke({"messages": talk}, THREAD)
    assert same_answer(second, alone)


class _Broke(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_run_that_broke_goes_on_to_the_unbroken_answer(
    at: int, saver: Any, models: Models, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The at-th request to any model fails once; the state remembers all before it."""
    from langgraph_arbitrage.engine import Engine

    graph = create_arbitrage_graph(models).compile(checkpointer=saver)
    submit, calls = Engine.submit, []

    def failing(self: Engine, *args: Any, **kwargs: Any) -> Any:
        calls.append(self)
        if len(calls) == at:
            raise _Broke
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "submit", failing)
    with pytest.raises(_Broke):
        graph.invoke(ASK, THREAD)
    before = len(calls)
    assert graph.get_state(THREAD).next
    assert same_answer(graph.invoke(None, THREAD), unbroken)
    monkeypatch.undo()
    whole = sum(1 + (s["writer"] == "target") for s in unbroken["steps"])
    assert len(calls) == whole + 1
    assert before == at


def test_a_run_may_be_rewound_and_gone_on_from(
    saver: Any, models: Models, unbroken: dict[str, Any]
) -> None:
    graph = create_arbitrage_graph(models).compile(checkpointer=saver)
    graph.invoke(ASK, THREAD)
    history = list(graph.get_state_history(THREAD))
    middle = history[len(history) // 2]
    assert 0 < len(middle.values["steps"]) < len(unbroken["steps"])
    assert same_answer(graph.invoke(None, middle.config), unbroken)


def test_a_new_message_on_a_thread_whose_answer_broke_is_answered(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langgraph_arbitrage.engine import Engine

    graph = create_arbitrage_graph(models).compile(checkpointer=InMemorySaver(serde=STRICT))
    submit, calls = Engine.submit, []

    def failing(self: Engine, *args: Any, **kwargs: Any) -> Any:
        calls.append(self)
        if len(calls) == 5:
            raise EngineError("broke")
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "submit", failing)
    with pytest.raises(EngineError):
        graph.invoke(ASK, THREAD)
    state = graph.invoke({"messages": [("user", QUESTIONS[1])]}, THREAD)
    talk = {"messages": [HumanMessage(QUESTIONS[0]), HumanMessage(QUESTIONS[1])]}
    alone = create_arbitrage_graph(models).compile().invoke(talk, THREAD)
    assert same_answer(state, alone)


def test_a_run_stopped_before_every_step_ends_in_the_unbroken_answer(
    models: Models, unbroken: dict[str, Any]
) -> None:
    graph = create_arbitrage_graph(models).compile(
        checkpointer=InMemorySaver(serde=STRICT), interrupt_before=["commit"]
    )
    state = graph.invoke(ASK, THREAD)
    for index in range(len(unbroken["steps"])):
        assert graph.get_state(THREAD).next == ("commit",)
        assert len(graph.get_state(THREAD).values["steps"]) == index
        state = graph.invoke(None, THREAD)
    assert same_answer(state, unbroken)


@pytest.mark.slow
def test_strict_msgpack_of_langgraph_is_kept(tmp_path: Path) -> None:
    """With the variable set before anything is imported, as a deployment sets it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from langgraph.checkpoint.sqlite import SqliteSaver\n"
        "from langgraph_arbitrage import Random, create_arbitrage_graph\n"
        "draft, target, file = sys.argv[1:]\n"
        "thread = {'configurable': {'thread_id': '1'}, 'recursion_limit': 1000}\n"
        "with SqliteSaver.from_conn_string(file) as saver:\n"
        "    graph = create_arbitrage_graph(draft=draft, target=target, router=Random(0.5),\n"
        "        separator=' ', max_tokens=30).compile(checkpointer=saver)\n"
        "    for question in ('3 apples?', '4 more?'):\n"
        "        state = graph.invoke({'messages': [('user', question)]}, thread)\n"
        "    again = graph.get_state(thread).values\n"
        "    assert [m.type for m in again['messages']] == ['human', 'ai'] * 2\n"
        "    assert again['steps'] == state['steps'] and again['steps']\n"
    )
    models = pair(endless=True)
    command = [sys.executable, "-W", "error::UserWarning", str(program), *models.values()]
    done = subprocess.run(
        [*command, str(tmp_path / "checkpoints")],
        env=os.environ | {"LANGGRAPH_STRICT_MSGPACK": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "msgpack" not in done.stderr.lower()


# --- inside of other graphs --------------------------------------------------------------


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_the_graph_is_a_node_of_another_graph(
    checkpointed: bool, models: Models, unbroken: dict[str, Any]
) -> None:
    parent = StateGraph(MessagesState)
    parent.add_node("reason", create_arbitrage_graph(models).compile())
    parent.add_edge(START, "reason")
    parent.add_edge("reason", END)
    saver = InMemorySaver(serde=STRICT) if checkpointed else None
    graph = parent.compile(checkpointer=saver)
    state = graph.invoke(ASK, THREAD)
    assert [m.type for m in state["messages"]] == ["human", "ai"]
    assert state["messages"][-1].text == unbroken["messages"][-1].text
    if checkpointed:
        state = await graph.ainvoke({"messages": [("user", QUESTIONS[1])]}, THREAD)
        assert [m.type for m in state["messages"]] == ["human", "ai"] * 2
        talk = {"messages": state["messages"][:-1]}
        alone = create_arbitrage_graph(models).compile().invoke(talk, THREAD)
        assert state["messages"][-1].text == alone["messages"][-1].text


class Parent(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    visited: Annotated[list[str], operator.add]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_the_chat_model_streams_through_a_parent_and_leaves_its_checkpoints_alone(
    how: str, chat: Chat
) -> None:
    llm = chat(**SETTINGS)
    want = llm.invoke(QUESTIONS[0])

    def ask(state: Parent) -> dict[str, Any]:
        return {"messages": [llm.invoke(state["messages"])], "visited": ["ask"]}

    async def ask_async(state: Parent) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])], "visited": ["ask"]}

    parent = StateGraph(Parent)
    parent.add_node("ask", ask if how == "sync" else ask_async)
    parent.add_edge(START, "ask")
    parent.add_edge("ask", END)
    saver = InMemorySaver(serde=STRICT)
    graph = parent.compile(checkpointer=saver)
    start = {**ASK, "visited": []}
    if how == "sync":
        told = list(graph.stream(start, THREAD, stream_mode="messages"))
    else:
        told = [part async for part in graph.astream(start, THREAD, stream_mode="messages")]
    assert "".join(chunk.text for chunk, _ in told) == want.text
    assert sum(bool(chunk.text) for chunk, _ in told) > 3
    assert {about["langgraph_node"] for _, about in told} == {"ask"}
    assert len({chunk.id for chunk, _ in told}) == 1
    snapshots = list(graph.get_state_history(THREAD))
    assert len(snapshots) == 3  # the input, before the node, after it
    assert {c.config["configurable"]["checkpoint_ns"] for c in saver.list(None)} == {""}
    assert graph.get_state(THREAD).values["messages"][-1].text == want.text
    assert set(graph.get_state(THREAD).values) == {"messages", "visited"}


def test_a_parents_recursion_limit_does_not_bound_the_steps(chat: Chat) -> None:
    llm = chat(**pair(endless=True), router=AlwaysDraft(), max_steps=30, max_step_tokens=2)
    parent = StateGraph(MessagesState)
    parent.add_node("ask", lambda state: {"messages": [llm.invoke(state["messages"])]})
    parent.add_edge(START, "ask")
    state = parent.compile().invoke(ASK, {"recursion_limit": 5})
    steps = state["messages"][-1].response_metadata["arbitrage"]["steps"]
    assert len(steps) == 30


@pytest.mark.parametrize("policy", [AlwaysDraft(), AlwaysTarget(), DraftConfidence(1.0)])
def test_the_longest_run_fits_the_recursion_limit(policy: Any, chat: Chat) -> None:
    message = chat(router=policy, max_steps=12, max_step_tokens=1).invoke(QUESTIONS[0])
    assert len(message.response_metadata["arbitrage"]["steps"]) == 12


def test_an_answer_cut_back_by_a_person_is_gone_on_with_from_there(models: Models) -> None:
    graph = create_arbitrage_graph(models).compile(
        checkpointer=InMemorySaver(serde=STRICT), interrupt_after=["commit"]
    )
    graph.invoke(ASK, THREAD)
    graph.invoke(None, THREAD)
    steps = graph.get_state(THREAD).values["steps"]
    assert len(steps) == 2
    graph.update_state(THREAD, {"steps": Overwrite(steps[:1])}, as_node="commit")
    graph.invoke(None, THREAD)
    assert graph.get_state(THREAD).values["steps"][1]["ids"] == steps[1]["ids"]
