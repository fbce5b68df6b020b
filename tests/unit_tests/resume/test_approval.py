"""A human's approval: asked before the target works, answered, never asked or paid for twice."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langgraph_arbitrage import (
    AlwaysTarget,
    ArbitrageSettings,
    ChatArbitrage,
    Context,
    Policy,
    Random,
    StepView,
)
from langgraph_arbitrage.errors import ApprovalError, SettingsError
from langgraph_arbitrage.persistence.time_travel import resume, rewind
from runs import ASK, SETTINGS, STRICT, same_answer, thread


def asked(state: Any) -> dict[str, Any] | None:
    """What the human is asked, if the run waits for one."""
    return state["__interrupt__"][0].value if "__interrupt__" in state else None


def answered(graph: Any, config: Any, *answers: Any) -> tuple[Any, list[Any]]:
    """Run to the end with these answers in turn, over and over; the state, and what was asked."""
    requests, state = [], graph.invoke(ASK, config)
    for answer in itertools.cycle(answers):
        if (request := asked(state)) is None:
            return state, requests
        requests.append(request)
        state = graph.invoke(Command(resume=answer), config)
    raise AssertionError


def test_escalate_gives_the_answer_of_a_run_without_approval(
    saver: Any, compiled: Any, unbroken: Any
) -> None:
    graph = compiled(saver, approve="escalations")
    state, requests = answered(graph, thread(), "escalate")
    assert same_answer(state, unbroken)
    escalated = [i for i, s in enumerate(unbroken["steps"]) if s["writer"] == "target"]
    assert len(escalated) > 2
    assert [r["step"] for r in requests] == escalated


def test_a_humans_step_is_no_models_in_anything_that_is_reported(compiled: Any) -> None:
    graph = compiled(approve="escalations", logprobs=True, max_thinking_tokens=20)
    state, _ = answered(graph, thread(), {"text": "Then 3 + 4 = 7."}, "escalate")
    steps, message = state["steps"], state["messages"][-1]
    assert {s["writer"] for s in steps} == {"draft", "target", "human"}
    assert "Then 3 + 4 = 7." in message.text
    told = message.response_metadata["logprobs"]["content"]
    assert len(told) == sum(len(s["ids"]) for s in steps if s["writer"] != "human")


def test_the_question_shows_step_score_and_expected_cost(compiled: Any, unbroken: Any) -> None:
    state, requests = answered(compiled(approve="escalations"), thread(), "escalate")
    written = [s for s in state["steps"] if s["writer"] == "target"]
    first, *_, last = requests
    step = state["steps"][last["step"]]
    assert last["score"] == step["score"]
    assert last["text"] != step["text"]
    assert 0 < last["confidence"] < 1
    assert last["target_tokens"] == sum(len(s["ids"]) for s in written[:-1])
    assert last["expected_tokens"] == last["target_tokens"] / (len(written) - 1)
    seconds = [s["writer_seconds"] for s in written[:-1]]
    assert last["expected_seconds"] == pytest.approx(sum(seconds) / len(seconds))
    assert first["expected_seconds"] is None  # the target has not written yet
    assert first["expected_tokens"] > 0
    assert all(type(v) in (int, float, str, bool, type(None)) for r in requests for v in r.values())


def test_accept_leaves_the_target_idle(compiled: Any, fed: Counter[int]) -> None:
    graph = compiled(approve="escalations")
    state, requests = answered(graph, thread(), "accept")
    assert len(requests) > 2
    assert {s["writer"] for s in state["steps"]} == {"draft"}
    assert fed[3] == 0


def test_a_replacement_text_takes_the_steps_place(compiled: Any, fed: Counter[int]) -> None:
    graph = compiled(approve="escalations")
    state, requests = answered(graph, thread(), {"text": "So many jars"})
    for request in requests:
        step = state["steps"][request["step"]]
        assert (step["writer"], step["text"]) == ("human", "So many jars.")
        assert step["ids"]
        assert step["discarded_tokens"] > 0
    assert fed[3] == 0
    figures = state["messages"][-1].response_metadata["arbitrage"]
    assert figures["target_tokens"] == 0
    assert "So many jars." in state["messages"][-1].text
    assert set(figures["engine"]) == {"draft"}


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_resuming_repeats_neither_work_nor_events(
    how: str, compiled: Any, unbroken: Any, fed: Counter[int]
) -> None:
    graph = compiled(approve="escalations")
    list(graph.stream(ASK, thread("warm")))
    fed.clear()
    events: list[Any] = []
    start: Any = ASK
    while start is not None:
        if how == "sync":
            events += graph.stream(start, thread(), stream_mode="custom")
        else:
            events += [e async for e in graph.astream(start, thread(), stream_mode="custom")]
        start = Command(resume="escalate") if graph.get_state(thread()).next else None
    kinds = Counter(e["type"] for e in events)
    n = len(unbroken["steps"])
    assert kinds["drafted"] == kinds["scored"] == kinds["committed"] == n
    assert kinds["accepted"] + kinds["escalated"] == n
    assert kinds["approval_requested"] == kinds["escalated"]
    state = graph.get_state(thread()).values
    assert same_answer(state, unbroken)
    told = state["messages"][-1].response_metadata["arbitrage"]["computed_tokens"]
    assert (fed[2], fed[3]) == (told["draft"], told["target"])


WRONG = ["yes", "", 1, True, ["accept"], {"text": ""}, {"text": 1}, {"type": "accept"}]


def test_a_wrong_answer_is_refused_and_may_be_given_again(
    saver: Any, compiled: Any, unbroken: Any
) -> None:
    graph = compiled(saver, approve="escalations")
    state = graph.invoke(ASK, thread())
    for wrong in WRONG:
        with pytest.raises(ApprovalError, match='"accept" accepts the draft'):
            graph.invoke(Command(resume=wrong), thread())
    while asked(state):
        state = graph.invoke(Command(resume="escalate"), thread())
    assert same_answer(state, unbroken)


def test_a_run_that_waits_still_waits_when_it_is_just_resumed(compiled: Any) -> None:
    graph = compiled(approve="escalations")
    first = asked(graph.invoke(ASK, thread()))
    assert asked(resume(graph, thread())) == first
    assert graph.get_state(thread()).interrupts[0].value == first


def test_a_run_that_waits_may_be_rewound(compiled: Any, unbroken: Any) -> None:
    graph = compiled(approve="escalations")
    graph.invoke(ASK, thread())
    state = graph.invoke(Command(resume="escalate"), thread())
    assert asked(state)
    state = graph.invoke(None, rewind(graph, thread(), 0))
    while asked(state):
        state = graph.invoke(Command(resume="escalate"), thread())
    assert same_answer(state, unbroken)


def test_a_run_is_asked_about_what_the_draft_was_unsure_of(compiled: Any) -> None:
    """Also where the policy would accept: the human may have it written again."""
    graph = compiled(approve="below:0.22", router=Random(0.0))
    state, requests = answered(graph, thread(), "escalate", "accept")
    assert len(requests) >= 2
    assert all(r["confidence"] < 0.22 and not r["escalate"] for r in requests)
    for request, writer in zip(requests, itertools.cycle(["target", "draft"]), strict=False):
        assert state["steps"][request["step"]]["writer"] == writer
    others = set(range(len(state["steps"]))) - {r["step"] for r in requests}
    assert {state["steps"][i]["writer"] for i in others} <= {"draft"}
    nobody, requests = answered(compiled(approve="below:0.001"), thread(), "escalate")
    assert requests == []
    assert nobody["finish_reason"] == "length"


def test_at_a_budget_a_human_decides(compiled: Any, unbroken: Any) -> None:
    graph = compiled(approve="budget", max_target_tokens=8)
    state, requests = answered(graph, thread("1"), "escalate")
    assert all(r["target_tokens"] >= 8 for r in requests)
    written = sum(len(s["ids"]) for s in state["steps"] if s["writer"] == "target")
    assert written > 8
    assert state["finish_reason"] == "length"
    state, requests = answered(graph, thread("2"), "accept")
    assert len(requests) > 1
    written = sum(len(s["ids"]) for s in state["steps"] if s["writer"] == "target")
    assert written == 8


def test_a_step_without_a_draft_cannot_be_accepted(compiled: Any) -> None:
    graph = compiled(approve="escalations", router=AlwaysTarget(), max_tokens=12)
    state = graph.invoke(ASK, thread())
    assert asked(state)["text"] is None
    with pytest.raises(ApprovalError, match="this step has no draft"):
        graph.invoke(Command(resume="accept"), thread())
    state = graph.invoke(Command(resume={"text": "Four jars"}), thread())
    while asked(state):
        state = graph.invoke(Command(resume="escalate"), thread())
    assert [s["writer"] for s in state["steps"]][:2] == ["human", "target"]
    assert state["steps"][0]["text"] == "Four jars."


def test_approval_may_be_asked_for_in_one_run_alone(compiled: Any, unbroken: Any) -> None:
    graph = compiled()
    context = Context(approve="escalations")
    state = graph.invoke(ASK, thread(), context=context)
    assert asked(state)
    # The question is in the state: an answer counts, whatever the context of its run says.
    state = graph.invoke(Command(resume="escalate"), thread())
    assert same_answer(state, unbroken)


def test_without_a_checkpointer_there_is_nobody_to_ask(teams: Any) -> None:
    from langgraph_arbitrage import create_arbitrage_graph

    graph = create_arbitrage_graph(teams(approve="escalations")).compile()
    with pytest.raises(SettingsError, match="needs a checkpointer"):
        graph.invoke(ASK)


@dataclass(frozen=True)
class Comparing(Policy):
    needs_target_step: ClassVar[bool] = True

    def score(self, view: StepView, answers: Sequence[Any]) -> None:
        return

    def escalates(self, score: float | None) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"approve": "always"}, "approve must be 'escalations', 'budget' or 'below:P'"),
        ({"approve": "below:2"}, "approve must be 'escalations'"),
        ({"approve": "below:much"}, "approve must be 'escalations'"),
        ({"approve": "budget"}, "set max_target_tokens too"),
        ({"approve": "escalations", "router": Comparing()}, "Comparing decides after"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        ArbitrageSettings(**settings)


# --- through the chat model, in an agent -------------------------------------------------


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_agent_is_interrupted_and_resumed_again_and_again(how: str, unbroken: Any) -> None:
    llm = ChatArbitrage(**SETTINGS, approve="escalations")
    agent = create_agent(llm, tools=[], checkpointer=InMemorySaver(serde=STRICT))
    start: Any = ASK
    events, told, waits = [], [], 0
    while True:
        told = []
        if how == "invoke":
            agent.invoke(start, thread())
        elif how == "ainvoke":
            await agent.ainvoke(start, thread())
        else:
            modes = ["custom", "messages"]
            if how == "stream":
                parts = list(agent.stream(start, thread(), stream_mode=modes))
            else:
                parts = [p async for p in agent.astream(start, thread(), stream_mode=modes)]
            events += [part for mode, part in parts if mode == "custom"]
            told = [part[0].text for mode, part in parts if mode == "messages"]
        snapshot = await agent.aget_state(thread())
        if not snapshot.interrupts:
            break
        waits += 1
        start = Command(resume="escalate")
    message = snapshot.values["messages"][-1]
    figures = message.response_metadata["arbitrage"]["steps"]
    assert message.text == unbroken["messages"][-1].text
    assert [s["writer"] for s in figures] == [s["writer"] for s in unbroken["steps"]]
    assert waits == sum(s["writer"] == "target" for s in unbroken["steps"]) > 2
    if "stream" in how:
        assert "".join(told) == message.text  # the last run tells the whole message
        committed = [e["step"] for e in events if e["type"] == "committed"]
        assert committed == list(range(len(figures)))
        assert {e["thread"] for e in events} == {"1"}
    llm.close()


def test_a_chat_model_outside_of_a_graph_says_that_it_cannot_ask() -> None:
    llm = ChatArbitrage(**SETTINGS, approve="escalations")
    with pytest.raises(SettingsError, match="needs a checkpointer"):
        llm.invoke("How many?")
    llm.close()
