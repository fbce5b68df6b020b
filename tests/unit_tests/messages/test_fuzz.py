"""Any list of messages yields an answer or an `ArbitrageError`, with any chat template."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langgraph_arbitrage import ChatArbitrage
from langgraph_arbitrage.errors import ArbitrageError
from tiny import CHAT_TEMPLATE, make

STRICT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}<{{ m['role'] }}>{{ m['content'] | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Like Gemma's template: no system turn, alternating roles, no tools."""

FRAGILE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'].strip() + '' }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }} "
    "{{ c.function.arguments.items() | list | length }}{% endfor %}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Raises on messages without text content or without argument mappings."""

TEMPLATES = (CHAT_TEMPLATE, STRICT, FRAGILE)

text = st.text(max_size=12) | st.sampled_from(["", "Hi", " ", "<end>", "{{ x }}", "\ud7ff\x00"])
args = st.dictionaries(st.text(max_size=4), st.none() | st.integers() | text, max_size=2)
part = st.one_of(
    text,
    st.builds(lambda t: {"type": "text", "text": t}, text),
    st.builds(lambda t: {"type": "thinking", "thinking": t}, text),
    st.builds(lambda t: {"type": "reasoning", "reasoning": t}, text),
    st.builds(lambda a: {"type": "tool_use", "id": "c1", "name": "f", "input": a}, args),
    st.builds(lambda t: {"type": "tool_result", "tool_use_id": "c1", "content": t}, text),
    st.just({"type": "image", "url": "http://x"}),
    st.just({"type": "mystery"}),
)
content = text | st.lists(part, max_size=3)
call = st.builds(
    lambda n, a, i: {"name": n, "args": a, "id": i, "type": "tool_call"},
    st.sampled_from(["f", "g h", ""]), args, st.sampled_from(["c1", None, "x" * 40]),
)  # fmt: skip
invalid_call = st.just(
    {"name": None, "args": "{", "id": None, "error": "x", "type": "invalid_tool_call"}
)
name = st.none() | st.just("Ann")
message = st.one_of(
    st.builds(lambda c, n: HumanMessage(content=c, name=n), content, name),
    st.builds(lambda c: SystemMessage(content=c), content),
    st.builds(
        lambda c, calls, bad: AIMessage(content=c, tool_calls=calls, invalid_tool_calls=bad),
        content, st.lists(call, max_size=2), st.lists(invalid_call, max_size=1),
    ),
    st.builds(lambda c, n: ToolMessage(content=c, tool_call_id="c1", name=n), content, name),
    st.builds(lambda c, r: ChatMessage(content=c, role=r), text, st.sampled_from(["critic", "ai"])),
    st.builds(lambda c: FunctionMessage(content=c, name="f"), text),
    st.just(RemoveMessage("x")),
)  # fmt: skip


@cache
def chat_of(template: str) -> ChatArbitrage:
    models = {
        role: make("llama", seed, template=template, num_hidden_layers=2)
        for seed, role in enumerate(("draft", "target"))
    }
    return ChatArbitrage(**models, max_tokens=2)


@pytest.fixture(scope="module", autouse=True)
def close_models() -> Any:
    yield
    for template in TEMPLATES:
        chat_of(template).close()


@pytest.mark.parametrize("template", TEMPLATES, ids=["any", "strict", "fragile"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(message, max_size=5), with_tools=st.booleans())
def test_any_conversation_yields_an_answer_or_an_arbitrage_error(
    template: str, messages: list[AnyMessage], with_tools: bool
) -> None:
    llm = chat_of(template)
    tools = {"tools": [{"title": "f", "properties": {}}]} if with_tools else {}
    with suppress(ArbitrageError):
        answer = llm.invoke(messages, **tools)
        assert answer.response_metadata["finish_reason"]
