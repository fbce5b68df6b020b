"""What a run tells while it goes: typed events, and its text as messages."""

from typing import Any

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from langgraph_arbitrage import ChatArbitrage
from runs import ASK, SETTINGS, thread
from tiny import QUESTIONS

FIELDS = {"type", "thread", "step", "writer", "text", "score", "tokens", "seconds"}
OF_A_STEP = {"drafted", "scored", "accepted", "escalated", "committed"}
MORE = {
    "scored": {"escalate", "invalid_call"},
    "committed": {"accepted_draft_tokens"},
    "finished": {"finish_reason"},
}


@pytest.fixture
def events(compiled: Any) -> list[dict[str, Any]]:
    """Those of a run on thread 1."""
    return list(compiled().stream(ASK, thread(), stream_mode="custom"))


def test_every_event_has_every_field(events: list[dict[str, Any]]) -> None:
    kinds = {"drafted", "scored", "accepted", "escalated", "target_delta", "committed", "finished"}
    assert {e["type"] for e in events} == kinds
    for event in events:
        assert set(event) == FIELDS | MORE.get(event["type"], set())
        assert event["thread"] == "1"
        assert event["tokens"] > 0
        assert event["text"]


def test_each_step_is_told_in_the_order_of_the_method(
    events: list[dict[str, Any]], unbroken: Any
) -> None:
    for index, step in enumerate(unbroken["steps"]):
        told = [e for e in events if e["step"] == index and e["type"] in OF_A_STEP]
        decision = "escalated" if step["writer"] == "target" else "accepted"
        assert [e["type"] for e in told] == ["drafted", "scored", decision, "committed"]
        drafted, scored, decided, committed = told
        assert [e["writer"] for e in told] == ["draft", "draft", "draft", step["writer"]]
        assert drafted["text"] == scored["text"] == decided["text"]
        assert drafted["score"] is None
        assert scored["score"] == decided["score"] == committed["score"] == step["score"]
        assert scored["escalate"] == (step["writer"] == "target")
        assert committed["text"] == step["text"]
        assert committed["tokens"] == len(step["ids"])
        assert committed["seconds"] > drafted["seconds"] > 0
    last = events[-1]
    assert (last["type"], last["writer"], last["finish_reason"]) == ("finished", None, "length")
    assert last["step"] == len(unbroken["steps"]) - 1
    assert last["tokens"] == SETTINGS["max_tokens"]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_the_chat_model_tells_them_to_its_parents_stream(
    how: str, events: list[dict[str, Any]]
) -> None:
    llm = ChatArbitrage(**SETTINGS)

    def ask(state: MessagesState) -> dict[str, Any]:
        if how == "invoke":
            return {"messages": [llm.invoke(state["messages"])]}
        return {"messages": [list(llm.stream(state["messages"]))[-1]]}

    async def ask_async(state: MessagesState) -> dict[str, Any]:
        if how == "ainvoke":
            return {"messages": [await llm.ainvoke(state["messages"])]}
        return {"messages": [[c async for c in llm.astream(state["messages"])][-1]]}

    parent = StateGraph(MessagesState)
    parent.add_node("ask", ask_async if how[0] == "a" else ask)
    parent.add_edge(START, "ask")
    parent.add_edge("ask", END)
    graph = parent.compile()
    told = [e async for e in graph.astream(ASK, thread("above"), stream_mode="custom")]
    assert [(e["type"], e["step"], e["text"]) for e in told] == [
        (e["type"], e["step"], e["text"]) for e in events
    ]
    assert {e["thread"] for e in told} == {"above"}
    llm.close()


def test_the_chat_model_alone_tells_nobody() -> None:
    llm = ChatArbitrage(**SETTINGS)
    assert llm.invoke(QUESTIONS[0]).text
    llm.close()


@pytest.mark.parametrize("stop", [(), ("jars", "apples")])
@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_accepted_text_comes_as_messages(how: str, stop: Any, compiled: Any) -> None:
    graph = compiled(stop=stop)
    want = graph.invoke(ASK, thread("before"))["messages"][-1]
    if how == "stream":
        told = list(graph.stream(ASK, thread(), stream_mode="messages"))
    else:
        told = [part async for part in graph.astream(ASK, thread(), stream_mode="messages")]
    chunks = [message for message, _ in told]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == want.text
    assert stop or sum(bool(c.text) for c in chunks) > 5
    assert {c.id for c in chunks} == {graph.get_state(thread()).values["messages"][-1].id}
    assert whole.usage_metadata["output_tokens"] == want.usage_metadata["output_tokens"]
    assert whole.response_metadata.keys() == want.response_metadata.keys()


def test_the_messages_of_a_run_that_is_resumed_go_on(compiled: Any) -> None:
    graph = compiled(approve="escalations")
    parts, start = [], ASK
    while start is not None:
        parts += graph.stream(start, thread(), stream_mode="messages")
        start = Command(resume="escalate") if graph.get_state(thread()).next else None
    answer = graph.get_state(thread()).values["messages"][-1]
    assert "".join(message.text for message, _ in parts) == answer.text
    assert {message.id for message, _ in parts} == {answer.id}
