"""Inside of an escalated step the draft guesses on: the same text, while it is measured to pay."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langgraph_arbitrage import (
    AlwaysTarget,
    ChatArbitrage,
    Random,
    create_arbitrage_graph,
    embedded,
)
from langgraph_arbitrage.engine import Engine, ModelSpec
from langgraph_arbitrage.engine.scheduler import Scheduler
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.speculation import ENOUGH, GUESSES, RECHECK, Speculation
from tiny import QUESTIONS, generate, make, pair

Chat = Callable[..., ChatArbitrage]
DRAFT, TARGET = 2, 3  # layers of the tiny pair
# Two of the first ten: the draft parts from the target, and is told how to go on.
PROBLEMS = [list(embedded.problems(10, seed=50))[i].question for i in (4, 9)]
PAIR: dict[str, Any] = {"draft": embedded.DRAFT, "target": embedded.TARGET, "separator": ("\n\n",)}
WORDY: dict[str, Any] = {"separator": (".", "\n"), **pair(endless=True, words=True)}


def figures(message: AIMessage) -> dict[str, Any]:
    found: dict[str, Any] = message.response_metadata["arbitrage"]
    return found


def steps(message: AIMessage) -> list[tuple[str, int, str]]:
    return [(s["writer"], s["tokens"], s["text"]) for s in figures(message)["steps"]]


@pytest.mark.parametrize(
    ("temperature", "limits"),
    [
        (0.0, {}),
        (0.7, {}),
        (0.7, {"max_tokens": 44}),
        (0.0, {"max_step_tokens": 11}),
        (0.7, {"stop": ("so the",)}),
        (0.0, {"max_target_tokens": 43}),
        (0.7, {"first_steps": 2}),
    ],
    ids=str,
)
def test_guesses_change_no_text(temperature: float, limits: dict[str, Any], chat: Chat) -> None:
    llm = chat(**PAIR, router=Random(1.0), temperature=temperature, seed=4, **limits)
    told = {how: [llm.invoke(q, speculate=how) for q in PROBLEMS] for how in ("off", "on")}
    for plain, guessed in zip(told["off"], told["on"], strict=True):
        assert (guessed.text, steps(guessed)) == (plain.text, steps(plain))
        assert figures(guessed)["finish_reason"] == figures(plain)["finish_reason"]
        assert guessed.usage_metadata["output_tokens"] == plain.usage_metadata["output_tokens"]
        assert figures(plain)["speculated_tokens"] == 0
    proposed = sum(figures(m)["speculated_tokens"] for m in told["on"])
    kept = sum(figures(m)["speculated_kept_tokens"] for m in told["on"])
    assert 0 < kept <= proposed


def test_the_text_is_the_one_of_transformers_with_the_target_alone(chat: Chat) -> None:
    llm = chat(**PAIR, router=Random(1.0), speculate="on")
    engine = Engine(ModelSpec(embedded.TARGET))
    for question in PROBLEMS:
        message = llm.invoke(question)
        ids = engine.tokenizer.render([{"role": "user", "content": question}])
        written = generate(embedded.TARGET, ids, message.usage_metadata["output_tokens"])
        assert message.text == engine.tokenizer.hf.decode(written, skip_special_tokens=True).strip()


async def test_many_at_a_time_write_what_each_writes_alone(chat: Chat) -> None:
    llm = chat(**PAIR, router=Random(1.0), temperature=0.5, seed=1)
    alone = [await llm.ainvoke(q, speculate="off") for q in PROBLEMS]
    many = await asyncio.gather(*(llm.ainvoke(q, speculate="on") for q in PROBLEMS))
    assert [steps(m) for m in many] == [steps(m) for m in alone]
    assert sum(figures(m)["speculated_kept_tokens"] for m in many) > 0


@pytest.mark.parametrize("how", ["on", "off"])
def test_the_targets_tokens_are_told_as_they_are_written(how: str, chat: Chat) -> None:
    graph = create_arbitrage_graph(**PAIR, router=Random(1.0), speculate=how).compile()
    asked = {"messages": [HumanMessage(PROBLEMS[0])]}
    events = list(graph.stream(asked, stream_mode="custom"))
    committed = [e for e in events if e["type"] == "committed"]
    for step in committed:
        told = [e for e in events if e["type"] == "writing" and e["step"] == step["step"]]
        assert step["text"].startswith("".join(e["text"] for e in told))
        counts = [e["tokens"] for e in told]
        assert counts == sorted(set(counts))
        assert len(counts) >= step["tokens"] - 1  # the end of the answer has no text


@pytest.mark.parametrize("how", ["on", "auto"])
def test_tokens_fed_for_guesses_are_counted(how: str, chat: Chat, fed: Counter[int]) -> None:
    llm = chat(**WORDY, router=Random(0.6, seed=2), max_tokens=120, speculate=how, max_slots=62)
    llm.invoke("Warm up.")
    fed.clear()
    found = figures(llm.invoke(QUESTIONS[0]))
    assert found["forwarded"] == {"draft": fed[DRAFT], "target": fed[TARGET], "router": 0}
    for name in ("speculated", "speculated_kept"):
        assert found[f"{name}_tokens"] == sum(s[name] for s in found["steps"])
        assert not any(s[name] for s in found["steps"] if s["writer"] == "draft")
    assert found["speculated_tokens"] > 0 or how == "auto"


def test_a_draft_that_guesses_badly_soon_guesses_no_more(chat: Chat) -> None:
    """Two unrelated models: hardly a guess is kept."""
    llm = chat(**WORDY, router=Random(1.0), max_tokens=300, max_step_tokens=8, max_slots=63)
    found = figures(llm.invoke(QUESTIONS[0]))
    parted = sum(s["kept"] < s["tokens"] - 1 for s in found["steps"])
    assert parted > 2 * RECHECK
    assert found["speculated_tokens"] <= GUESSES * (1 + parted / RECHECK)
    assert figures(llm.invoke(QUESTIONS[0], speculate="on"))["speculated_tokens"] > 10 * GUESSES


def test_the_target_alone_stays_alone(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(**WORDY, router=AlwaysTarget(), speculate="on", max_tokens=40, max_slots=62)
    llm.invoke("Warm up.")
    fed.clear()
    assert figures(llm.invoke(QUESTIONS[0]))["speculated_tokens"] == 0
    assert set(fed) == {TARGET}


@pytest.mark.parametrize(
    "settings",
    [
        {"draft": make("llama", num_hidden_layers=2, vocabulary=350, endless=True)},
        {"target": make("mamba", endless=True)},
        {"draft": make("mamba", endless=True)},
        {"batch_invariant": True},
    ],
    ids=["another vocabulary", "plain target", "plain draft", "batch invariant"],
)
def test_where_nothing_can_be_guessed_the_target_writes_as_ever(
    settings: dict[str, Any], chat: Chat
) -> None:
    options = {**WORDY, "max_tokens": 40, "router": Random(1.0), **settings}
    told = [chat(**options, speculate=how).invoke(QUESTIONS[1]) for how in ("on", "off")]
    assert steps(told[0]) == steps(told[1])
    assert figures(told[0])["speculated_tokens"] == 0


def test_nothing_is_guessed_under_a_grammar(chat: Chat) -> None:
    pytest.importorskip("llguidance")
    form = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    llm = chat(**WORDY, router=Random(1.0), max_tokens=40, max_step_tokens=5, speculate="on")
    message = llm.invoke(QUESTIONS[0], response_format=form)
    assert figures(message)["speculated_tokens"] == 0


def test_a_stream_that_is_closed_stops_both_models(
    chat: Chat, schedulers: list[Scheduler], fed: Counter[int]
) -> None:
    settings = {**WORDY, "separator": "\n\n\n", "max_step_tokens": 900, "max_tokens": 900}
    llm = chat(**settings, router=Random(1.0), first_steps=1, speculate="on", max_slots=60)
    llm.invoke("Warm up.", max_tokens=1)
    fed.clear()
    stream = llm.stream(QUESTIONS[0])
    next(chunk for chunk in stream if chunk.text)
    stream.close()
    assert not any(s.busy for s in schedulers)
    assert fed[TARGET] < 200
    assert fed[DRAFT] > 0


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(SettingsError, match="'auto', 'on' or 'off', not 'maybe'"):
        ChatArbitrage(**PAIR).invoke("Hi", speculate="maybe")


# --- when it pays ----------------------------------------------------------------------------


class Pair:
    """Two models by their costs, whose steps end as `Speculation` has them end."""

    def __init__(self, *, token: float = 3.2, guess: float = 0.7, forward: float = 4.5) -> None:
        self.token, self.guess, self.forward = token, guess, forward
        self.speculation = Speculation()
        self.guessed = self.alone = 0

    def step(self, kept: int, length: int = 24) -> bool:
        """End a step, in rounds of which so many guesses are kept; whether any were made."""
        s, rounds = self.speculation, 0
        guessing = s.wanted
        while guessing and length > 0:
            tokens = min(kept + 1, GUESSES)
            s.round(GUESSES * self.guess, self.forward, tokens, 0.3, first=not rounds)
            self.guessed += GUESSES
            length, rounds = length - tokens, rounds + 1
            guessing = s.pays
        if length > 0:
            s.alone(self.token)
            self.alone += 1
        return rounds > 0


def test_the_target_is_measured_alone_first() -> None:
    two = Pair()
    assert [two.step(GUESSES) for _ in range(ENOUGH + 3)] == [False] * ENOUGH + [True] * 3


@pytest.mark.parametrize(
    ("costs", "kept", "pays"),
    [
        ({}, GUESSES, True),
        ({}, 3, True),
        ({}, 1, False),
        ({}, 0, False),
        ({"token": 0.8}, 6, False),  # many rows share the target's forwards
        ({"token": 0.8, "guess": 0.1, "forward": 1.0}, 6, True),  # and those of the guesses
        ({"guess": 3.2}, GUESSES, False),  # the draft is no faster
        ({"token": 50.0}, 0, False),  # measured in another minute
    ],
)
def test_guesses_are_made_where_they_are_cheaper(
    costs: dict[str, float], kept: int, pays: bool
) -> None:
    two = Pair(**costs)
    made = [two.step(kept) for _ in range(200)]
    assert (sum(made) > 180) == pays
    assert (two.guessed <= GUESSES * (1 + 200 / RECHECK)) == (not pays)


def test_it_follows_what_changes() -> None:
    two = Pair()
    for kept in (6, 0, 6, 0):
        for _ in range(2 * RECHECK):
            two.step(kept)  # until it knows
        before = two.guessed
        made = sum(two.step(kept) for _ in range(100))
        assert (made > 85) == (kept > 0)
        assert kept or two.guessed - before <= GUESSES * (1 + 100 / RECHECK)


def test_a_moment_without_the_processor_decides_nothing() -> None:
    two = Pair()
    for _ in range(20):
        two.step(6)
    two.speculation.round(200.0, 300.0, 5, 100.0, first=True)
    two.speculation.alone(300.0)
    assert two.step(6)
    bad = Pair()
    for _ in range(20):
        bad.step(0)
    bad.speculation.alone(300.0)
    assert not bad.speculation.pays
