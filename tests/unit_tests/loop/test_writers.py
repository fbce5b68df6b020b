"""Whoever writes a step, it is what that model alone would have written from the same prefix."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ChatArbitrage,
    Random,
    create_arbitrage_graph,
)
from langgraph_arbitrage.models.tokenizer import Tokenizer
from tiny import PLAIN_KINDS, QUESTIONS, SLOT_KINDS, generate, make, pair, prompt, tokenizer

Chat = Callable[..., ChatArbitrage]
TOKENS = Tokenizer(tokenizer(), "tiny", None)
NEW = 24
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        # `engine/test_greedy.py` tests every kind by default.
        *(
            (k, "target")
            if k in ("llama", "qwen2-sliding")
            else pytest.param(k, "target", marks=SLOW)
            for k in SLOT_KINDS
        ),
        ("llama", "draft"),
        *((k, role) for k in PLAIN_KINDS for role in ("draft", "target")),
    ],
)
def test_one_writer_alone_equals_generate_one_at_a_time_and_eight_at_once(
    kind: str, role: str
) -> None:
    path = make(kind)
    want = [TOKENS.decode(generate(path, prompt(q), NEW)).rstrip(" ") for q in QUESTIONS]
    llm = ChatArbitrage(
        **pair() | {role: path},
        router={"draft": AlwaysDraft(), "target": AlwaysTarget()}[role],
        separator=" ",
        min_step_tokens=1,
        max_tokens=NEW,
        max_step_tokens=5,
    )
    alone = llm.invoke(QUESTIONS[0])
    together = asyncio.run(llm.abatch(QUESTIONS))
    llm.close()
    assert alone.text == want[0]
    assert [m.text for m in together] == want
    figures = [m.response_metadata["arbitrage"] for m in together]
    assert max(len(f["steps"]) for f in figures) >= 5
    assert {s["writer"] for f in figures for s in f["steps"]} == {role}
    engine = "plain" if kind in PLAIN_KINDS else "slot"
    assert all(f["engine"] == {role: engine} for f in figures)


def naive(
    paths: dict[str, str], ids: list[int], steps: list[dict[str, Any]], stop: str = " "
) -> list[list[int]]:
    """The steps again: each by `generate` of its writer on all ids so far, cut at a separator."""
    found = []
    for step in steps:
        free = generate(paths[step["writer"]], ids, len(step["ids"]) + 3)
        ends = (n for n in range(1, len(free) + 1) if stop in TOKENS.decode(free[:n]))
        found.append(free[: next(ends, len(free))])
        ids = ids + found[-1]
    return found


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("llama", Random(0.2, seed=1)),
        ("llama", Random(0.5, seed=2)),
        ("llama", Random(0.8, seed=3)),
        ("mistral", Random(0.5)),
        ("gemma3_text", Random(0.5)),
        ("gpt2", Random(0.5, seed=1)),
        ("mamba", Random(0.5)),
    ],
)
def test_any_pattern_of_writers_equals_a_naive_loop(kind: str, policy: Random) -> None:
    paths = {"draft": make(kind, endless=kind == "llama"), "target": make(kind, seed=1)}
    graph = create_arbitrage_graph(
        **paths, router=policy, separator=" ", min_step_tokens=1, max_tokens=50, max_steps=100
    ).compile()
    state = graph.invoke({"messages": [("user", QUESTIONS[0])]}, {"recursion_limit": 1000})
    steps = state["steps"]
    want = naive(paths, prompt(QUESTIONS[0]), steps)
    assert [s["ids"] for s in steps[:-1]] == want[:-1]
    last = steps[-1]["ids"]
    assert last == want[-1][: len(last)]  # where a limit may have cut it
    drawn = [policy.escalates(s["score"]) for s in steps]
    assert [s["writer"] == "target" for s in steps] == drawn
    assert len({s["writer"] for s in steps}) == 2


def test_eight_mixed_conversations_at_once_equal_each_alone(chat: Chat) -> None:
    llm = chat(router=Random(0.5, seed=4), max_tokens=36)
    alone = [llm.invoke(q) for q in QUESTIONS]
    together = asyncio.run(llm.abatch(QUESTIONS))
    threads = llm.batch(QUESTIONS)
    assert [m.text for m in together] == [m.text for m in alone] == [m.text for m in threads]
    for a, b in zip(alone, together, strict=True):
        steps = [m.response_metadata["arbitrage"]["steps"] for m in (a, b)]
        assert [s["writer"] for s in steps[0]] == [s["writer"] for s in steps[1]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_steps_cut_by_their_limit_still_join_to_the_text_of_their_ids(
    limit: int, chat: Chat
) -> None:
    """A character may be cut in the middle of its bytes, and must come out whole and once."""
    models = pair(endless=True)
    text = "é。😀 naïve "
    ids = prompt(text * 4)
    graph = create_arbitrage_graph(
        **models, router=AlwaysTarget(), separator="§", max_tokens=60, max_step_tokens=limit
    ).compile()
    state = graph.invoke({"messages": [("user", text * 4)]}, {"recursion_limit": 1000})
    written = [i for s in state["steps"] for i in s["ids"]]
    assert written == generate(models["target"], ids, 60)
    assert state["messages"][-1].text == TOKENS.decode(written)


@pytest.mark.parametrize("role", ["draft", "target"])
def test_the_other_model_is_never_loaded(role: str, loads: list[str]) -> None:
    models = {"draft": make("llama", seed=31), "target": make("llama", seed=32)}
    policy = AlwaysDraft() if role == "draft" else AlwaysTarget()
    llm = ChatArbitrage(**models, router=policy, separator=" ", min_step_tokens=1, max_tokens=20)
    llm.invoke(QUESTIONS[0])
    asyncio.run(llm.ainvoke(QUESTIONS[1]))
    list(llm.stream(QUESTIONS[2]))
    llm.close()
    assert loads == [models[role]]


def test_nothing_is_loaded_before_the_first_answer(loads: list[str]) -> None:
    models = {"draft": make("llama", seed=31), "target": make("llama", seed=32)}
    ChatArbitrage(**models)
    create_arbitrage_graph(**models).compile()
    assert not loads


def test_chat_models_of_the_same_checkpoints_share_them(loads: list[str]) -> None:
    models = {"draft": make("llama", seed=31), "target": make("llama", seed=32)}
    first = ChatArbitrage(**models, separator=" ", min_step_tokens=1, max_tokens=30, threshold=0.5)
    second = ChatArbitrage(**models, separator="\n", min_step_tokens=1, max_tokens=20, threshold=1)
    for llm in (first, second):
        llm.invoke(QUESTIONS[0])
    assert sorted(loads) == sorted(models.values())
    first.close()
    assert second.invoke(QUESTIONS[0]).text
    assert len(loads) == 2
    second.close()
    assert first.invoke(QUESTIONS[0]).text  # a closed one loads again
    first.close()
