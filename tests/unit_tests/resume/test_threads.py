"""A stored run: listed, gone on with, rewound, forked, edited."""

from collections import Counter
from typing import Any

import pytest

from langgraph_arbitrage import AlwaysTarget, Context, Random
from langgraph_arbitrage.errors import ThreadError
from langgraph_arbitrage.persistence.time_travel import (
    afork,
    alist_steps,
    aresume,
    arewind,
    fork,
    list_steps,
    resume,
    rewind,
)
from runs import ASK, SETTINGS, same_answer, thread
from tiny import QUESTIONS


def ids(steps: Any) -> list[Any]:
    return [(s["writer"], s["ids"]) for s in steps]


def test_a_threads_steps_are_listed(saver: Any, compiled: Any, unbroken: Any) -> None:
    graph = compiled(saver)
    graph.invoke(ASK, thread())
    assert ids(list_steps(graph, thread())) == ids(unbroken["steps"])


@pytest.mark.parametrize("step", [0, 3, -1])
def test_a_rewound_run_gives_the_unbroken_answer(
    step: int, saver: Any, compiled: Any, unbroken: Any
) -> None:
    graph = compiled(saver)
    graph.invoke(ASK, thread())
    step %= len(unbroken["steps"])
    back = rewind(graph, thread(), step)
    assert ids(list_steps(graph, back)) == ids(unbroken["steps"][:step])
    state = graph.get_state(back)
    assert [m.type for m in state.values["messages"]] == ["human"]
    assert state.values["finish_reason"] is None
    assert state.next
    assert same_answer(graph.invoke(None, back), unbroken)
    assert same_answer(graph.get_state(thread()).values, unbroken)


def test_the_second_answer_of_a_thread_is_rewound_alone(saver: Any, compiled: Any) -> None:
    graph = compiled(saver)
    graph.invoke(ASK, thread())
    second = graph.invoke({"messages": [("user", QUESTIONS[1])]}, thread())
    back = rewind(graph, thread(), 2)
    kept = graph.get_state(back).values
    assert [m.type for m in kept["messages"]] == ["human", "ai", "human"]
    assert ids(kept["steps"]) == ids(second["steps"][:2])
    assert same_answer(graph.invoke(None, back), second)


def test_a_fork_goes_another_way_and_leaves_its_thread_alone(
    saver: Any, compiled: Any, unbroken: Any
) -> None:
    graph = compiled(saver)
    graph.invoke(ASK, thread())
    other = fork(graph, thread(), 4, thread="other")
    state = graph.invoke(None, other, context=Context(threshold=1.0))
    assert ids(state["steps"][:4]) == ids(unbroken["steps"][:4])
    assert {s["writer"] for s in state["steps"][4:]} == {"target"}
    assert state["messages"][-1].text != unbroken["messages"][-1].text
    assert same_answer(graph.get_state(thread()).values, unbroken)
    assert ids(list_steps(graph, other)) == ids(state["steps"])


def test_a_fork_may_have_another_policy(compiled: Any, unbroken: Any) -> None:
    graph = compiled()
    graph.invoke(ASK, thread())
    other = compiled(graph.checkpointer, router=AlwaysTarget())
    state = other.invoke(None, fork(other, thread(), 2, thread="2"))
    assert ids(state["steps"][:2]) == ids(unbroken["steps"][:2])
    assert {s["writer"] for s in state["steps"][2:]} == {"target"}
    assert all(s["discarded_tokens"] == 0 for s in state["steps"][2:])  # the draft was left out
    # and back, to a policy that needs a model that had no part in the answer
    target = compiled(graph.checkpointer, router=AlwaysTarget())
    target.invoke(ASK, thread("3"))
    state = graph.invoke(None, fork(graph, thread("3"), 2, thread="4"))
    assert "draft" in {s["writer"] for s in state["steps"][2:]}


def test_a_fork_may_have_another_seed(compiled: Any) -> None:
    graph = compiled(temperature=1.0, seed=1)
    first = graph.invoke(ASK, thread())
    same = graph.invoke(None, fork(graph, thread(), 3, thread="2"))
    other = graph.invoke(None, fork(graph, thread(), 3, thread="3", seed=2))
    assert same_answer(same, first)
    assert ids(other["steps"][:3]) == ids(first["steps"][:3])
    assert ids(other["steps"][3:]) != ids(first["steps"][3:])


@pytest.mark.parametrize("text", ["So many apples.", "So many apples"])
def test_an_edited_step_is_gone_on_from(text: str, saver: Any, compiled: Any) -> None:
    graph = compiled(saver)
    first = graph.invoke(ASK, thread())
    back = rewind(graph, thread(), 3, text=text)
    state = graph.invoke(None, back)
    edited = state["steps"][3]
    assert (edited["writer"], edited["text"]) == ("human", "So many apples.")
    assert edited["ids"]
    assert ids(state["steps"][:3]) == ids(first["steps"][:3])
    assert "So many apples." in state["messages"][-1].text
    assert state["steps"][4]["ids"] != first["steps"][4]["ids"]
    assert sum(len(s["ids"]) for s in state["steps"]) == SETTINGS["max_tokens"]
    assert ids(graph.get_state(thread()).values["steps"]) == ids(state["steps"])


def test_the_cache_makes_a_fork_cheap(compiled: Any, fed: Counter[int]) -> None:
    """What was read before the fork is not read again: tokens fed are those that are new."""
    graph = compiled(router=Random(0.5, seed=2), max_tokens=200)
    first = graph.invoke(ASK, thread())
    step = len(first["steps"]) - 3
    fed.clear()
    state = graph.invoke(None, fork(graph, thread(), step, thread="2"))
    told: Counter[str] = Counter()
    for record in state["steps"][step:]:
        told.update(record["computed_tokens"])
    prefix = sum(len(s["ids"]) for s in first["steps"][:step])
    assert prefix > 150
    assert (fed[2], fed[3]) == (told["draft"], told["target"])
    assert fed[2] + fed[3] < prefix / 3


async def test_the_async_twins_do_the_same(compiled: Any, unbroken: Any) -> None:
    graph = compiled()
    await graph.ainvoke(ASK, thread())
    assert ids(await alist_steps(graph, thread())) == ids(unbroken["steps"])
    other = await afork(graph, thread(), 4, thread="2")
    assert same_answer(await aresume(graph, other), unbroken)
    back = await arewind(graph, thread(), 2)
    assert same_answer(await aresume(graph, back), unbroken)


def test_a_finished_thread_says_so_and_gives_its_answer(
    saver: Any, compiled: Any, unbroken: Any, fed: Counter[int]
) -> None:
    graph = compiled(saver)
    graph.invoke(ASK, thread())
    fed.clear()
    state = resume(graph, thread())
    assert state["finish_reason"] == "length"
    assert same_answer(state, unbroken)
    assert same_answer(graph.invoke(None, thread()), unbroken)
    assert not fed


def test_a_question_whose_answer_is_not_begun_has_no_steps(saver: Any, compiled: Any) -> None:
    """Those in the state are of the answer before."""
    graph = compiled(saver)
    graph.invoke(ASK, thread())
    graph.invoke({"messages": [("user", "How many?")]}, thread(), interrupt_before=["prepare"])
    assert graph.get_state(thread()).values["steps"]
    assert list_steps(graph, thread()) == []
    with pytest.raises(ThreadError, match="it has no steps yet"):
        rewind(graph, thread(), 0)
    state = resume(graph, thread())
    assert [m.type for m in state["messages"]] == ["human", "ai", "human", "ai"]
    assert ids(list_steps(graph, thread())) == ids(state["steps"])


def test_what_is_not_there_is_told(saver: Any, compiled: Any) -> None:
    graph = compiled(saver)
    for use in (list_steps, resume, lambda g, c: rewind(g, c, 0)):
        with pytest.raises(ThreadError, match="thread 'nobody' does not exist"):
            use(graph, thread("nobody"))
    with pytest.raises(ThreadError, match="does not name a thread"):
        list_steps(graph, {})
    n = len(graph.invoke(ASK, thread())["steps"])
    for step in (n, -1, True, "2"):
        with pytest.raises(ThreadError, match=rf"no step {step!r}: it has steps 0 to {n - 1}"):
            rewind(graph, thread(), step)
        with pytest.raises(ThreadError, match="it has steps 0 to"):
            fork(graph, thread(), step, thread="2")
    with pytest.raises(ThreadError, match="exists already"):
        fork(graph, thread(), 1, thread="1")
    with pytest.raises(ThreadError, match="empty text"):
        rewind(graph, thread(), 1, text=" ")
