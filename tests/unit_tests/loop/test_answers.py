"""Whole answers: how they end, what they cost, what one call may change."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, DraftConfidence, Random
from langgraph_arbitrage.errors import ChatTemplateError, ContextLengthError, MessageError
from langgraph_arbitrage.models.tokenizer import Tokenizer
from langgraph_arbitrage.prompts.messages import template_messages
from tiny import QUESTIONS, generate, make, pair, prompt, tokenizer

Chat = Callable[..., ChatArbitrage]
TOKENS = Tokenizer(tokenizer(), "tiny", None)
WORDY: dict[str, Any] = {"separator": (".", "\n"), **pair(endless=True, words=True)}
OTHER_TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[me] "


def figures(message: AIMessage) -> dict[str, Any]:
    return message.response_metadata["arbitrage"]


# --- text --------------------------------------------------------------------------------

VARIETY: dict[str, dict[str, Any]] = {
    "bytes": {"separator": " "},
    "words": WORDY,
    "short steps": {"separator": " ", "max_step_tokens": 3},
    "several separators": {"separator": ("s", " ", "\n\n")},
    "long separators": {"separator": (" the", "es")},
    "stop": WORDY | {"stop": ["."]},
    "sampled": {"separator": " ", "temperature": 1.0, "seed": 3},
    "two tokenizers": {
        "draft": make("llama", num_hidden_layers=2, vocabulary=330, template=OTHER_TEMPLATE),
        "target": make("llama", seed=1),
    },
    "ends": pair(),
}


@pytest.mark.parametrize("name", VARIETY)
@pytest.mark.parametrize("policy", [AlwaysTarget(), Random(0.4)])
def test_joined_steps_equal_the_answer_and_no_separator_ends_it(
    name: str, policy: Any, chat: Chat
) -> None:
    llm = chat(**VARIETY[name], router=policy, max_tokens=40)
    for message in llm.batch(QUESTIONS[:2]):
        steps = figures(message)["steps"]
        assert "".join(s["text"] for s in steps) == message.text
        assert not message.text.endswith(llm.separator)
        assert not any(s in message.text for s in llm.stop)
        assert sum(s["tokens"] for s in steps) <= 40


async def test_different_tokenizers_and_templates_write_one_answer_together(chat: Chat) -> None:
    """Each reads the other's steps as text of its own; sync, async and streamed alike."""
    words = {"endless": True, "words": True}
    llm = chat(
        draft=make("llama", num_hidden_layers=2, vocabulary=330, template=OTHER_TEMPLATE, **words),
        target=make("llama", seed=1, **words),
        separator=(".", "\n"),
        router=Random(0.5),
        max_tokens=80,
    )
    alone = [llm.invoke(q) for q in QUESTIONS[:4]]
    together = await llm.abatch(QUESTIONS[:4])
    for message, other in zip(alone, together, strict=True):
        assert {s["writer"] for s in figures(message)["steps"]} == {"draft", "target"}
        assert message.text == other.text
        # A separator at the end is counted and not shown.
        hidden = message.usage_metadata["output_tokens"] - len(TOKENS.encode(message.text))
        assert 0 <= hidden <= 3
        streamed = llm.stream(QUESTIONS[alone.index(message)])
        assert "".join(c.text for c in streamed) == message.text


def test_each_model_reads_the_conversation_through_its_own_template(chat: Chat) -> None:
    draft = make("llama", num_hidden_layers=2, vocabulary=330, template=OTHER_TEMPLATE)
    llm = chat(draft=draft, target=make("llama", seed=1), router=AlwaysDraft(), max_tokens=12)
    own = Tokenizer(tokenizer(330, OTHER_TEMPLATE), "own", None)
    ids = own.encode(f"[user] {QUESTIONS[0]}\n[me] ")
    assert llm.invoke(QUESTIONS[0]).text == own.decode(generate(draft, ids, 12)).rstrip(" ")


# --- ends --------------------------------------------------------------------------------


def ended(message: AIMessage) -> str:
    assert figures(message)["finish_reason"] == message.response_metadata["finish_reason"]
    return message.response_metadata["finish_reason"]


@pytest.mark.parametrize("policy", [AlwaysDraft(), AlwaysTarget(), Random(0.5)])
def test_the_token_limit_ends_an_answer_and_says_so(policy: Any, chat: Chat) -> None:
    for limit in (1, 7, 33):
        message = chat(router=policy, max_tokens=limit).invoke(QUESTIONS[0])
        assert ended(message) == "length"
        assert message.usage_metadata["output_tokens"] == limit


def test_the_step_limit_ends_an_answer_and_says_so(chat: Chat) -> None:
    message = chat(router=Random(0.5), max_steps=3, max_step_tokens=4).invoke(QUESTIONS[0])
    assert ended(message) == "max_steps"
    assert len(figures(message)["steps"]) == 3


def test_a_model_that_never_writes_the_separator_is_ended_by_the_limits(chat: Chat) -> None:
    message = chat(separator="§", router=AlwaysTarget(), max_tokens=50).invoke(QUESTIONS[0])
    assert ended(message) == "length"
    assert len(figures(message)["steps"]) == 1
    message = chat(separator="§", router=AlwaysTarget(), max_tokens=50, max_step_tokens=20).invoke(
        QUESTIONS[0]
    )
    assert [s["tokens"] for s in figures(message)["steps"]] == [20, 20, 10]


@pytest.mark.parametrize("policy", [AlwaysDraft(), AlwaysTarget(), Random(0.5)])
def test_the_context_ends_an_answer_and_says_so(policy: Any, chat: Chat) -> None:
    room = pair(endless=True, max_position_embeddings=64)
    message = chat(**room, router=policy, max_tokens=500).invoke(QUESTIONS[0])
    assert ended(message) == "context"
    assert message.usage_metadata["total_tokens"] == 64


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(
    chat: Chat, loads: list[str]
) -> None:
    room = pair(endless=True, max_position_embeddings=63)
    told = r"prompt has \d+ tokens for the target llama.*, which reads 63 .*Shorten"
    with pytest.raises(ContextLengthError, match=told):
        chat(**room).invoke(QUESTIONS[3] * 3)
    assert not loads


def test_an_end_token_ends_an_answer(chat: Chat) -> None:
    """A model that ends: its end token is what it writes first after some steps."""
    models, found = pair(words=True), 0
    llm = chat(**models, separator="\n", router=AlwaysTarget(), max_tokens=30)
    questions = QUESTIONS[:4]
    for question, message in zip(questions, llm.batch(questions), strict=True):
        want = generate(models["target"], prompt(question), 30)
        assert message.usage_metadata["output_tokens"] == len(want)
        assert ended(message) == ("stop" if want[-1] == tokenizer().eos_token_id else "length")
        found += ended(message) == "stop"
    assert found


def test_a_stop_string_over_two_steps_ends_an_answer(chat: Chat) -> None:
    """It begins in a step that was accepted, and ends in the next."""
    llm = chat(**WORDY, router=Random(0.5), max_tokens=60)
    free = llm.invoke(QUESTIONS[0])
    steps = [s["text"] for s in figures(free)["steps"]]
    edges = [len("".join(steps[: n + 1])) for n in range(1, len(steps) - 1)]
    assert edges
    for edge in edges:
        stop = free.text[edge - 3 : edge + 3]
        message = llm.invoke(QUESTIONS[0], stop=[stop])
        assert message.text == free.text[: free.text.index(stop)].rstrip(".\n")
        assert ended(message) == "stop"


# --- figures -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [AlwaysDraft(), AlwaysTarget(), Random(0.5), DraftConfidence()])
def test_an_answer_carries_its_figures(policy: Any, chat: Chat) -> None:
    llm = chat(router=policy, max_tokens=60, max_step_tokens=8)
    message = llm.invoke(QUESTIONS[0])
    found = figures(message)
    assert set(message.response_metadata) == {
        "model_name",
        "model_provider",
        "finish_reason",
        "arbitrage",
    }
    assert message.response_metadata["model_name"] == llm.target
    assert set(found) == {
        "steps",
        "escalation_rate",
        "draft_tokens",
        "target_tokens",
        "accepted_draft_tokens",
        "discarded_tokens",
        "computed_tokens",
        "engine",
        "finish_reason",
    }
    steps = found["steps"]
    assert {frozenset(s) for s in steps} == {
        frozenset({"writer", "score", "tokens", "accepted_draft_tokens", "seconds", "text"})
    }
    by = {w: [s for s in steps if s["writer"] == w] for w in ("draft", "target")}
    assert found["escalation_rate"] == len(by["target"]) / len(steps)
    assert found["draft_tokens"] == sum(s["tokens"] for s in by["draft"])
    assert found["target_tokens"] == sum(s["tokens"] for s in by["target"])
    assert found["draft_tokens"] + found["target_tokens"] == 60
    assert found["accepted_draft_tokens"] == sum(s["accepted_draft_tokens"] for s in steps)
    wasted = by["target"] and not isinstance(policy, AlwaysTarget)
    assert bool(found["discarded_tokens"]) == bool(wasted)
    assert set(found["computed_tokens"]) == {"draft", "target", "router"}
    used = {role for role in ("draft", "target") if found["computed_tokens"][role]}
    assert found["engine"] == dict.fromkeys(used, "slot")
    assert all(s["seconds"] > 0 for s in steps)
    scored = isinstance(policy, Random | DraftConfidence)
    assert all(isinstance(s["score"], float) == scored for s in steps)


def test_usage_is_counted_by_the_targets_tokenizer(chat: Chat) -> None:
    message = chat(router=Random(0.5), max_tokens=25).invoke(QUESTIONS[2])
    usage = message.usage_metadata
    assert usage["input_tokens"] == len(prompt(QUESTIONS[2]))
    assert usage["output_tokens"] == 25
    assert usage["total_tokens"] == usage["input_tokens"] + 25
    assert usage["input_token_details"]["cache_read"] <= usage["input_tokens"]


def test_confidence_is_the_mean_probability_of_the_drafts_tokens(chat: Chat) -> None:
    """By a plain forward of the draft."""
    import torch

    from tiny import loaded

    models = pair(endless=True)
    message = chat(router=DraftConfidence(0.0), max_tokens=30).invoke(QUESTIONS[0])
    ids = prompt(QUESTIONS[0])
    whole = ids + generate(models["draft"], ids, 30)
    with torch.no_grad():
        probs = loaded(models["draft"])(torch.tensor([whole])).logits[0].softmax(-1)
    each = [probs[i - 1, whole[i]].item() for i in range(len(ids), len(whole))]
    for step in figures(message)["steps"]:
        mine, each = each[: step["tokens"]], each[step["tokens"] :]
        assert step["score"] == pytest.approx(sum(mine) / len(mine), abs=1e-4)


# --- one call ----------------------------------------------------------------------------


def test_one_call_may_change_its_limits_and_the_next_has_the_old_ones(chat: Chat) -> None:
    llm = chat(router=DraftConfidence(), max_tokens=30)
    usual = llm.invoke(QUESTIONS[0])
    assert llm.invoke(QUESTIONS[0], max_tokens=5).usage_metadata["output_tokens"] == 5
    assert len(figures(llm.invoke(QUESTIONS[0], max_steps=2))["steps"]) == 2
    by_steps = figures(llm.invoke(QUESTIONS[0], max_step_tokens=2))["steps"]
    assert max(s["tokens"] for s in by_steps) == 2
    assert figures(llm.invoke(QUESTIONS[0], threshold=0.0))["escalation_rate"] == 0
    assert figures(llm.invoke(QUESTIONS[0], threshold=1.0))["escalation_rate"] == 1
    stop = usual.text[3:6]
    assert llm.invoke(QUESTIONS[0], stop=[stop]).text == usual.text[
        : usual.text.index(stop)
    ].rstrip(" ")
    warm = {"temperature": 1.5, "seed": 3}
    assert llm.invoke(QUESTIONS[0], **warm).text != usual.text
    assert llm.invoke(QUESTIONS[0], **warm, top_k=1).text == usual.text
    assert llm.invoke(QUESTIONS[0], **warm, top_p=1e-9).text == usual.text
    assert llm.invoke(QUESTIONS[0]).text == usual.text
    assert llm.bind(max_tokens=4).invoke(QUESTIONS[0]).usage_metadata["output_tokens"] == 4


@pytest.mark.parametrize("policy", [AlwaysDraft(), Random(0.5)])
async def test_a_seed_fixes_a_sampled_answer_alone_and_in_a_batch(policy: Any, chat: Chat) -> None:
    llm = chat(router=policy, max_tokens=30, temperature=1.0, seed=11)
    alone = llm.invoke(QUESTIONS[0]).text
    assert llm.invoke(QUESTIONS[0]).text == alone
    batch = await llm.abatch(QUESTIONS)
    assert batch[0].text == alone
    assert "".join(c.text for c in llm.stream(QUESTIONS[0])) == alone
    others = {llm.invoke(QUESTIONS[0], seed=s).text for s in range(4)}
    assert len(others | {alone}) == 5
    assert llm.invoke(QUESTIONS[0], seed=11).text == alone


def test_without_a_seed_sampled_answers_differ(chat: Chat) -> None:
    llm = chat(router=AlwaysDraft(), max_tokens=20, temperature=1.0)
    assert len({llm.invoke(QUESTIONS[0]).text for _ in range(4)}) == 4


def test_two_steps_of_one_answer_draw_different_numbers(chat: Chat) -> None:
    """With one stream of numbers a step, a seed alone would repeat itself at each."""
    llm = chat(router=AlwaysDraft(), temperature=50.0, seed=1, max_steps=6, max_step_tokens=6)
    texts = [s["text"] for s in figures(llm.invoke(QUESTIONS[0]))["steps"]]
    assert len(set(texts)) == len(texts)


# --- messages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "conversation has no messages. Pass at least one message"),
        (
            [HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])],
            "content of type 'image_url' is not supported: the models read text only",
        ),
        (
            [HumanMessage([{"type": "text", "text": "x"}, {"type": "audio", "data": ""}])],
            "content of type 'audio' is not supported",
        ),
        (
            [RemoveMessage("4")],
            "RemoveMessage cannot be part of a prompt. Supported: system",
        ),
        ([HumanMessage(" "), AIMessage("")], "all 2 messages of the conversation are empty"),
    ],
)
async def test_a_conversation_that_cannot_be_read_is_refused_before_any_work(
    messages: list[AnyMessage], told: str, chat: Chat, loads: list[str]
) -> None:
    llm = chat(**pair(hidden_size=48))
    with pytest.raises(MessageError, match=told):
        llm.invoke(messages)
    with pytest.raises(MessageError, match=told):
        await llm.ainvoke(messages)
    with pytest.raises(MessageError, match=told):
        list(llm.stream(messages))
    assert not loads


def test_messages_of_every_kind_reach_the_template() -> None:
    call = {"name": "add", "args": {"a": 1}, "id": "call00001", "type": "tool_call"}
    found = template_messages(
        [
            SystemMessage("Be brief."),
            HumanMessage(["1 ", {"type": "text", "text": "+ 2?"}]),
            AIMessage("", tool_calls=[call]),
            ToolMessage("3", tool_call_id="call00001", name="add"),
            AIMessage("It is 3."),
            ChatMessage("Thanks", role="critic"),
        ]
    )
    assert [(m["role"], m["content"]) for m in found] == [
        ("system", "Be brief."),
        ("user", "1 + 2?"),
        ("assistant", ""),
        ("tool", "3"),
        ("assistant", "It is 3."),
        ("critic", "Thanks"),
    ]
    function = {"name": "add", "arguments": {"a": 1}}
    assert found[2]["tool_calls"] == [{"type": "function", "id": "call00001", "function": function}]
    assert (found[3]["name"], found[3]["tool_call_id"]) == ("add", "call00001")


def test_asking_leaves_the_callers_messages_as_they_were(chat: Chat) -> None:
    messages = [HumanMessage(QUESTIONS[0]), AIMessage("7"), HumanMessage("Sure?")]
    before = [m.model_dump() for m in messages]
    chat(max_tokens=5).invoke(messages)
    assert [m.model_dump() for m in messages] == before


def test_a_model_without_chat_template_is_told_how_to_get_one(
    chat: Chat, tmp_path: Any, loads: list[str]
) -> None:
    import shutil
    from pathlib import Path

    models = {}
    for role, path in pair().items():
        models[role] = str(shutil.copytree(path, tmp_path / role))
        (Path(models[role]) / "chat_template.jinja").unlink()
    with pytest.raises(ChatTemplateError, match=r"has no chat template.*chat_template="):
        chat(**models).invoke("Hi")
    assert not loads
    with_one = chat(**models, chat_template=OTHER_TEMPLATE, max_tokens=5)
    assert with_one.invoke("Hi").usage_metadata["input_tokens"] == len(
        TOKENS.encode("[user] Hi\n[me] ")
    )


def test_answers_run_in_any_event_loop(chat: Chat) -> None:
    """The engine's thread outlives the loop that asked."""
    llm = chat(max_tokens=10)
    found = {asyncio.run(llm.ainvoke(QUESTIONS[0])).text for _ in range(3)}
    assert found == {llm.invoke(QUESTIONS[0]).text}
