"""Streams: the same answer, as early as it is certain and not earlier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, Policy, Random, StepView
from langgraph_arbitrage.engine import Engine
from langgraph_arbitrage.loop.answer_text import TextRelease, answer_text
from tiny import QUESTIONS, pair

Chat = Callable[..., ChatArbitrage]
WORDY: dict[str, Any] = {"separator": (".", "\n"), **pair(endless=True, words=True)}
POLICIES = [AlwaysDraft(), AlwaysTarget(), Random(0.5, seed=1)]


async def collected(llm: ChatArbitrage, question: str, how: str, **options: Any) -> list[Any]:
    if how == "stream":
        return list(llm.stream(question, **options))
    return [chunk async for chunk in llm.astream(question, **options)]


def joined(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_joined_chunks_equal_the_answer(policy: Policy, how: str, chat: Chat) -> None:
    for settings in ({"separator": " "}, WORDY):
        llm = chat(**settings, router=policy, max_tokens=50)
        want = llm.invoke(QUESTIONS[0])
        chunks = await collected(llm, QUESTIONS[0], how)
        whole = joined(chunks)
        assert "".join(c.text for c in chunks) == whole.text == want.text
        assert all(c.text for c in chunks if c.usage_metadata is None and c is not chunks[-1])
        assert whole.usage_metadata | {"input_token_details": None} == want.usage_metadata | {
            "input_token_details": None
        }
        assert whole.response_metadata.keys() == want.response_metadata.keys()
        found, wanted = (m.response_metadata["arbitrage"] for m in (whole, want))
        assert [s["text"] for s in found["steps"]] == [s["text"] for s in wanted["steps"]]
        assert found["finish_reason"] == wanted["finish_reason"] == "length"


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_the_figures_come_once_and_after_all_text(how: str, chat: Chat) -> None:
    llm = chat(router=Random(0.5), max_tokens=40)
    chunks = await collected(llm, QUESTIONS[1], how)
    told = [i for i, c in enumerate(chunks) if "arbitrage" in c.response_metadata]
    counted = [i for i, c in enumerate(chunks) if c.usage_metadata]
    assert told == counted
    assert len(told) == 1
    assert not any(c.text for c in chunks[told[0] :])


async def test_the_target_is_told_token_by_token(chat: Chat) -> None:
    llm = chat(**WORDY | {"separator": "§"}, router=AlwaysTarget(), max_tokens=40)
    chunks = await collected(llm, QUESTIONS[0], "stream")
    assert len(chunks[-1].response_metadata or chunks[-2].response_metadata)
    assert sum(bool(c.text) for c in chunks) >= 20


async def test_the_draft_is_told_step_by_step(chat: Chat) -> None:
    llm = chat(**WORDY, router=AlwaysDraft(), max_tokens=60)
    chunks = await collected(llm, QUESTIONS[0], "stream")
    steps = joined(chunks).response_metadata["arbitrage"]["steps"]
    assert sum(bool(c.text) for c in chunks) <= len(steps)


@dataclass(frozen=True)
class Noting(Policy):
    """Escalates every third step, and notes which steps it has judged."""

    judged: list[int] = field(default_factory=list, compare=False)

    def score(self, view: StepView, answers: Sequence[Any]) -> float:
        self.judged.append(view.index)
        return view.index % 3

    def escalates(self, score: float | None) -> bool:
        return score == 2


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_no_text_of_a_draft_is_told_before_it_is_accepted(how: str, chat: Chat) -> None:
    policy = Noting()
    llm = chat(**WORDY, router=policy, max_tokens=80)
    seen: list[tuple[int, int]] = []  # characters told, steps judged by then
    length = 0
    last = None
    if how == "stream":
        for chunk in llm.stream(QUESTIONS[0]):
            length += len(chunk.text)
            seen.append((length, len(policy.judged)))
            last = chunk if chunk.response_metadata else last
    else:
        async for chunk in llm.astream(QUESTIONS[0]):
            length += len(chunk.text)
            seen.append((length, len(policy.judged)))
            last = chunk if chunk.response_metadata else last
    steps = last.response_metadata["arbitrage"]["steps"]
    assert {s["writer"] for s in steps} == {"draft", "target"}
    for told, judged in seen:
        begun, end = 0, 0
        for step in steps:
            begun += end < told
            end += len(step["text"])
        assert judged >= begun


@pytest.mark.parametrize("how", ["stream", "astream"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_stop_string_is_never_told(policy: Policy, how: str, chat: Chat) -> None:
    """Nor is any text after it; it may begin and end inside of tokens."""
    llm = chat(**WORDY, router=policy, max_tokens=40)
    text = llm.invoke(QUESTIONS[0]).text
    ended = 0
    for i in range(8, len(text) - 4, max(1, len(text) // 7)):
        stop = [text[i : i + 1 + i % 4], "never written"]
        want = llm.invoke(QUESTIONS[0], stop=stop)
        told = "".join(c.text for c in await collected(llm, QUESTIONS[0], how, stop=stop))
        assert stop[0] not in want.text
        assert told == want.text == answer_text(text, stop, WORDY["separator"])
        assert want.response_metadata["finish_reason"] == "stop"
        ended += 1
    assert ended >= 5


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("So 3 + 4 = 7.\n\nThe end is near.\n\n", ["end"]),
        ("aaab aab ab b", ["aab"]),
        ("one|two||three|", ["|||"]),
        ("no stop in here\n\n\n\n", ["§", "here it"]),
        ("x stop", ["stop", " s"]),
        ("stop at once", ["stop"]),
        ("", ["stop"]),
    ],
)
def test_what_is_told_is_the_answer_however_the_text_comes(
    text: str, stop: list[str], cut: int
) -> None:
    separators = ["\n\n", "|"]
    answer = answer_text(text, stop, separators)
    told, stream = "", TextRelease(stop, separators)
    for i in range(0, len(text), cut):
        told += stream.push(text[i : i + cut])
        assert answer.startswith(told)
    assert told + stream.finish(answer) == answer


@pytest.mark.parametrize(("how", "listened"), [("invoke", 0), ("stream", 1)])
def test_tokens_are_told_one_by_one_only_where_somebody_listens(
    how: str, listened: int, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telling 32 answers at once takes a third of the time."""
    heard, submit = [], Engine.submit

    def noting(self: Engine, request: Any, listener: Any = None, **options: Any) -> Any:
        heard.append(listener is not None)
        return submit(self, request, listener, **options)

    monkeypatch.setattr(Engine, "submit", noting)
    llm = chat(router=AlwaysTarget(), max_tokens=5)
    told = getattr(llm, how)(QUESTIONS[0])
    assert told.text if how == "invoke" else "".join(c.text for c in told)
    assert any(heard) == bool(listened)
