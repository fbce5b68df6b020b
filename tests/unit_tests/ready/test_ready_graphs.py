"""Ready graphs: best of n, plan-solve-verify, a cascade, a batch, on tiny and embedded models."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_arbitrage import RSD, AlwaysDraft, ChatArbitrage, Context, embedded
from langgraph_arbitrage.data.answer_extraction import final_answer
from langgraph_arbitrage.errors import CheckpointError, SettingsError
from langgraph_arbitrage.graphs import (
    create_batch_graph,
    create_best_of_n_graph,
    create_cascade_graph,
    create_plan_solve_verify_graph,
)
from langgraph_arbitrage.graphs.best_of_n import Trace, elected
from runs import SETTINGS, STRICT
from tiny import QUESTIONS, make

PROBLEM = next(embedded.problems(1, seed=21)).question
ASK: Any = {"messages": [("user", QUESTIONS[0])]}
SHORT = SETTINGS | {"max_tokens": 12}
ONE: Any = {"configurable": {"thread_id": "1"}}


def texts(state: Any) -> list[str]:
    return [trace["message"].text for trace in state["traces"]]


# --- best of n ---------------------------------------------------------------------------


def test_n_answers_differ_and_are_the_same_again_with_the_seed_sync_and_async() -> None:
    graph = create_best_of_n_graph(n=4, seed=1, **SHORT).compile()
    state = graph.invoke(ASK)
    assert len(set(texts(state))) == 4
    assert [trace["index"] for trace in state["traces"]] == [0, 1, 2, 3]
    assert texts(asyncio.run(graph.ainvoke(ASK))) == texts(state)


def test_the_chosen_answer_tells_the_votes_and_the_tokens_of_all() -> None:
    state = create_best_of_n_graph(n=3, seed=1, **SHORT).compile().invoke(ASK)
    answer = state["messages"][-1]
    told = answer.response_metadata["best_of_n"]
    assert answer.text == texts(state)[told["chosen"]]
    assert sum(told["answers"].values()) == told["n"] == 3
    tokens = [trace["message"].usage_metadata["total_tokens"] for trace in state["traces"]]
    assert answer.usage_metadata["total_tokens"] == sum(tokens)


def test_a_second_question_on_a_thread_has_votes_of_its_own() -> None:
    saver = InMemorySaver(serde=STRICT)
    graph = create_best_of_n_graph(n=2, seed=1, **SHORT).compile(checkpointer=saver)
    first = graph.invoke(ASK, ONE)
    second = graph.invoke({"messages": [("user", QUESTIONS[1])]}, ONE)
    assert len(second["traces"]) == 2
    assert len(second["messages"]) == 4
    assert texts(first) != texts(second)


def test_the_message_stream_has_the_chosen_answer_alone() -> None:
    graph = create_best_of_n_graph(n=3, seed=1, **SHORT).compile()
    told = [m for m, _ in graph.stream(ASK, stream_mode="messages") if isinstance(m, AIMessage)]
    assert len(told) == 1
    assert "best_of_n" in told[0].response_metadata


def test_a_trace_is_scored_as_the_policy_of_the_same_prm_scores_its_steps() -> None:
    policy = RSD("embedded:prm", threshold=0)  # accepts all, and tells its score of each step
    message = ChatArbitrage(router=policy, max_tokens=200).invoke(PROBLEM)
    steps = message.response_metadata["arbitrage"]["steps"]
    graph = create_best_of_n_graph(
        n=1, prm="embedded:prm", router=AlwaysDraft(), temperature=0.0, max_tokens=200
    ).compile()
    (trace,) = graph.invoke({"messages": [("user", PROBLEM)]})["traces"]
    assert trace["message"].text == message.text
    assert trace["score"] == pytest.approx(min(step["score"] for step in steps), abs=1e-5)


def test_equal_votes_go_to_the_first_and_a_prm_may_outvote_many() -> None:
    def traces(*pairs: tuple[str, float | None]) -> list[Trace]:
        message = AIMessage("")
        return [
            Trace(index=i, answer=a, score=s, message=message) for i, (a, s) in enumerate(pairs)
        ]

    assert elected(traces(("5", None), ("6", None)), "majority")["index"] == 0
    many = traces(("5", 0.1), ("5", 0.2), ("6", 0.9))
    assert [elected(many, v)["answer"] for v in ("majority", "weighted", "prm")] == ["5", "6", "6"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is \boxed{\frac{1}{2}}, not 3.", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{ 2.50 }", "2.5"),
        ("so 1,234,567 in all.", "1234567"),
        ("nothing", "nothing"),
        (r"\boxed{12", "12"),
    ],
)
def test_a_final_answer_is_what_is_boxed_last_else_the_last_number(text: str, answer: str) -> None:
    assert final_answer(text) == answer


# --- plan, solve, verify -----------------------------------------------------------------


def test_a_solution_is_written_again_until_it_is_found_right(heard: Any) -> None:
    seen: list[tuple[str, str]] = []

    def verify(question: str, solution: str) -> str | None:
        seen.append((question, solution))
        return None if len(seen) == 2 else "the sum is off"

    graph = create_plan_solve_verify_graph(verify=verify, seed=1, **SHORT).compile()
    state = graph.invoke(ASK, {"callbacks": [heard]})
    told = state["messages"][-1].response_metadata["plan_solve_verify"]
    assert told["verified"]
    assert (told["attempts"], told["faults"]) == (2, ["the sum is off"])
    assert {question for question, _ in seen} == {QUESTIONS[0]}
    assert seen[0][1] != seen[1][1] == state["messages"][-1].text
    plan, first, second = heard.asked
    assert "Write a plan" in plan
    assert told["plan"] in first
    assert "the sum is off" not in first
    assert "the sum is off" in second


def test_what_was_never_found_right_says_so() -> None:
    graph = create_plan_solve_verify_graph(
        verify=lambda question, solution: "no", plan=False, attempts=2, **SHORT
    ).compile()
    answer = asyncio.run(graph.ainvoke(ASK))["messages"][-1]
    told = answer.response_metadata["plan_solve_verify"]
    assert (told["verified"], told["attempts"], told["plan"]) == (False, 2, "")


def test_with_a_prm_the_best_of_the_bad_is_the_answer() -> None:
    graph = create_plan_solve_verify_graph(
        prm="embedded:prm", threshold=1.0, plan=False, feedback=False, attempts=3, max_tokens=200
    ).compile()
    state = graph.invoke({"messages": [("user", PROBLEM)]})
    best = max(state["attempts"], key=lambda attempt: attempt["score"])
    assert state["messages"][-1].text == best["message"].text
    assert "is probably wrong" in best["fault"]


def test_the_target_alone_checks_where_nothing_else_does(heard: Any) -> None:
    pytest.importorskip("llguidance")
    graph = create_plan_solve_verify_graph(plan=False, attempts=1, max_tokens=200).compile()
    state = graph.invoke({"messages": [("user", PROBLEM)]}, {"callbacks": [heard]})
    assert state["messages"][-1].response_metadata["plan_solve_verify"]["attempts"] == 1
    assert state["messages"][-1].text in heard.asked[1]


# --- cascade -----------------------------------------------------------------------------


def cascade(**settings: Any) -> Any:
    models = [make("llama", seed, num_hidden_layers=seed, endless=True) for seed in (1, 2, 3)]
    return models, create_cascade_graph(models, max_tokens=8, **settings).compile()


def test_a_sure_answer_costs_the_larger_models_nothing(loads: list[str]) -> None:
    models, graph = cascade(threshold=0.0, routers=[AlwaysDraft(), None])
    told = graph.invoke(ASK)["messages"][-1].response_metadata["cascade"]
    assert (told["level"], told["levels"], len(told["confidences"])) == (1, 2, 1)
    assert loads == models[:1]


def test_an_unsure_answer_goes_to_the_next_level_and_the_last_is_taken() -> None:
    models, graph = cascade(threshold=1.0)
    state = asyncio.run(graph.ainvoke(ASK))
    answer = state["messages"][-1]
    told = answer.response_metadata["cascade"]
    assert told["level"] == 2
    assert len(told["confidences"]) == len(state["tried"]) == 2
    alone = ChatArbitrage(draft=models[1], target=models[2], max_tokens=8).invoke(QUESTIONS[0])
    assert answer.text == alone.text
    assert all(0 < confidence < 1 for confidence in told["confidences"])


# --- batch -------------------------------------------------------------------------------


def asked(n: int) -> Any:
    return {"questions": [f"{q} {i}" for i, q in enumerate((QUESTIONS * 2)[:n])]}


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_questions_run_at_a_time_than_the_limit_says(limit: int, heard: Any) -> None:
    graph = create_batch_graph(concurrency=limit, **SHORT).compile()
    state = graph.invoke(asked(9), {"callbacks": [heard]})
    assert heard.most == limit
    assert [answer["question"] for answer in state["answers"]] == asked(9)["questions"]
    again = asyncio.run(graph.ainvoke(asked(9), {"callbacks": [heard]}))
    assert heard.most == limit
    assert len(heard.asked) == 18
    same = zip(state["answers"], again["answers"], strict=True)
    assert all(a["message"].text == b["message"].text for a, b in same)


def test_a_question_that_cannot_be_answered_does_not_stop_the_others() -> None:
    graph = create_batch_graph(**SHORT).compile()
    state = graph.invoke({"questions": ["How many?", " ", "word " * 2000]})
    errors = [answer["error"] for answer in state["answers"]]
    assert errors[0] is None
    assert "messages of the conversation are empty" in errors[1]
    assert "reads 1024" in errors[2]


# LangGraph's executor drops the coroutines of tasks that were cancelled before their turn came.
@pytest.mark.filterwarnings("ignore:coroutine 'arun_with_retry' was never awaited:RuntimeWarning")
async def test_a_run_that_broke_off_asks_only_what_has_no_answer(heard: Any) -> None:
    saver = InMemorySaver(serde=STRICT)
    graph = create_batch_graph(concurrency=1, **SHORT).compile(checkpointer=saver)
    config: Any = {**ONE, "callbacks": [heard]}
    found = 0
    async with aclosing(graph.astream(asked(6), config, stream_mode="updates")) as updates:
        async for _ in updates:
            found += 1
            if found == 4:  # begin, and three answers
                break
    first = len(heard.asked)
    state = await graph.ainvoke(None, config)
    assert len(state["answers"]) == 6
    assert 3 <= first < 6
    assert heard.asked[first:] == asked(6)["questions"][3:]


def test_a_second_list_on_a_thread_has_answers_of_its_own() -> None:
    graph = create_batch_graph(**SHORT).compile(checkpointer=InMemorySaver(serde=STRICT))
    graph.invoke(asked(3), ONE)
    assert len(graph.invoke(asked(2), ONE)["answers"]) == 2


# --- settings ----------------------------------------------------------------------------


def test_a_runs_context_holds_for_every_question_in_it() -> None:
    graph = create_batch_graph(**SHORT).compile()
    state = graph.invoke(asked(2), context=Context(max_tokens=2))
    tokens = [a["message"].usage_metadata["output_tokens"] for a in state["answers"]]
    assert tokens == [2, 2]


@pytest.mark.parametrize(
    ("make_graph", "told"),
    [
        (lambda: create_best_of_n_graph(n=0), "n must be at least 1, not 0"),
        (lambda: create_best_of_n_graph(vote="most"), "majority, prm, weighted, not 'most'"),
        (lambda: create_best_of_n_graph(vote="prm"), "pass prm="),
        (lambda: create_best_of_n_graph(vote="majority", prm="x"), "does not use prm='x'"),
        (lambda: create_best_of_n_graph(temperature=-1), "temperature must be 0 or more"),
        (lambda: create_plan_solve_verify_graph(attempts=0), "attempts must be at least 1"),
        (lambda: create_plan_solve_verify_graph(threshold=2), "from 0 to 1, not 2"),
        (lambda: create_plan_solve_verify_graph(prm="x", verify=len), "not both"),  # type: ignore[arg-type]
        (lambda: create_cascade_graph(["a", "b"]), "needs three or more models"),
        (lambda: create_cascade_graph("abc"), "needs three or more models"),
        (lambda: create_cascade_graph(threshold=-1), "from 0 to 1, not -1"),
        (lambda: create_cascade_graph(routers=[None]), "3 models make 2 levels"),
        (lambda: create_batch_graph(concurrency=0), "concurrency must be at least 1, not 0"),
        (lambda: create_batch_graph().compile().invoke({"questions": "Hi"}), "not 'Hi'"),
        (
            lambda: create_batch_graph().compile().invoke({"questions": []}),
            "non-empty list of strings",
        ),
        (
            lambda: create_batch_graph().compile().invoke({"questions": ["Hi", 3]}),
            "list of strings",
        ),
    ],
)
def test_bad_settings_are_refused_and_named(make_graph: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        make_graph()


def test_a_router_is_no_prm() -> None:
    with pytest.raises(CheckpointError, match="is a router, not a PRM"):
        create_best_of_n_graph(prm="embedded:router")
