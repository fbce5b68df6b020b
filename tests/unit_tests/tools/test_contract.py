"""LangChain features of the chat model: call options, callbacks, caches and token counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.runnables import ConfigurableField

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage, DraftConfidence
from langgraph_arbitrage.utils.openai_format import chat_completion
from tiny import make, pair, tokenizer

THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)


class Recorder(BaseCallbackHandler):
    """Records the callbacks it receives."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("start")

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.events.append(token)

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("end")


@pytest.fixture(scope="module")
def llm() -> Iterator[ChatArbitrage]:
    chat = ChatArbitrage(**pair(endless=True), separator=" ", max_tokens=12)
    yield chat
    chat.close()


@pytest.mark.parametrize("method", ["invoke", "ainvoke", "stream", "astream"])
async def test_each_callback_is_called_once(method: str, llm: ChatArbitrage) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    if method == "invoke":
        llm.invoke("Hi", config)
    elif method == "ainvoke":
        await llm.ainvoke("Hi", config)
    elif method == "stream":
        text = "".join(c.text for c in llm.stream("Hi", config))
    else:
        text = "".join([c.text async for c in llm.astream("Hi", config)])
    assert recorder.events.count("start") == recorder.events.count("end") == 1
    tokens = recorder.events[1:-1]
    assert "".join(tokens) == (text if "stream" in method else "")


def test_a_call_can_use_another_target(llm: ChatArbitrage) -> None:
    other = make("llama", seed=5, endless=True)
    answer = llm.invoke("Hi", model=other, threshold=1.0)
    alone = ChatArbitrage(target=other, router=AlwaysTarget(), separator=" ", max_tokens=12)
    assert answer.response_metadata["model_name"] == other
    assert answer.text == alone.invoke("Hi").text
    assert llm.invoke("Hi").response_metadata["model_name"] == llm.target
    alone.close()


def test_fields_can_be_configured_per_call(llm: ChatArbitrage) -> None:
    configurable = llm.configurable_fields(max_tokens=ConfigurableField(id="limit"))
    short = configurable.with_config(configurable={"limit": 3}).invoke("Hi")
    assert short.usage_metadata["output_tokens"] == 3
    assert configurable.invoke("Hi").usage_metadata["output_tokens"] == 12


def test_the_cache_key_depends_on_models_settings_and_policy(llm: ChatArbitrage) -> None:
    cache = InMemoryCache()
    cached = llm.model_copy(update={"cache": cache})
    first = cached.invoke("Hi")
    assert cached.invoke("Hi").text == first.text
    assert len(cache._cache) == 1
    cached.invoke("Hi", seed=3)
    cached.invoke("Hi", tools=[{"title": "f", "properties": {}}])
    cached.model_copy(update={"router": DraftConfidence(0.5)}).invoke("Hi")
    cached.model_copy(update={"temperature": 0.5}).invoke("Hi")
    cached.model_copy(update={"target": make("llama", seed=6, endless=True)}).invoke("Hi")
    assert len(cache._cache) == 6


def test_tokens_are_counted_with_the_targets_tokenizer(llm: ChatArbitrage) -> None:
    assert llm.get_num_tokens("Ann has 3") == len(tokenizer().encode("Ann has 3"))
    messages = [HumanMessage("Ann has 3")]
    count = llm.get_num_tokens_from_messages(messages)
    assert count == llm.invoke(messages).usage_metadata["input_tokens"]


@pytest.mark.parametrize(
    "messages",
    [
        [SystemMessage("Be brief.")],
        [AIMessage("Seven.")],
        [ToolMessage("7", tool_call_id="1")],
        [AIMessage("", tool_calls=[{"id": "1", "name": "add", "args": {"a": 1}}])],
        [HumanMessage("")],
        [HumanMessage("Ann"), HumanMessage("has 3")],
        [SystemMessage("a"), SystemMessage("b")],
    ],
)
def test_any_part_of_a_conversation_can_be_counted(messages: Any, llm: ChatArbitrage) -> None:
    """langchain-ai/langchain#25762 and others: trim_messages counts partial conversations."""
    assert llm.get_num_tokens_from_messages(messages) > 0


def test_trim_messages_uses_the_models_count(llm: ChatArbitrage) -> None:
    assert llm.get_num_tokens_from_messages([]) == 0
    said = [SystemMessage("s"), HumanMessage("a " * 50), AIMessage("b " * 50), HumanMessage("c")]
    kept = trim_messages(
        said, max_tokens=60, token_counter=llm, include_system=True, start_on="human"
    )
    assert kept == [said[0], said[3]]


def test_the_bytes_of_half_characters_are_reported(llm: ChatArbitrage) -> None:
    """vllm-project/vllm#3640, ggml-org/llama.cpp#9969: tokens that hold part of a character."""
    answer = llm.invoke("Hi", logprobs=True, max_tokens=60, max_steps=60)
    content = answer.response_metadata["logprobs"]["content"]
    assert any("\ufffd" in token["token"] for token in content)
    joined = bytes(byte for token in content for byte in token["bytes"])
    assert joined.decode(errors="replace").strip() == answer.text.strip()
    served = chat_completion(answer, "m")["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in served] == [token["bytes"] for token in content]


def test_log_probabilities_are_returned_on_request(llm: ChatArbitrage) -> None:
    assert "logprobs" not in llm.invoke("Hi").response_metadata
    answer = llm.invoke("Hi", logprobs=True)
    content = answer.response_metadata["logprobs"]["content"]
    assert len(content) == answer.usage_metadata["output_tokens"] == 12
    assert all(part["logprob"] <= 0 for part in content)
    assert answer.text in "".join(part["token"] for part in content)


def test_the_profile_and_tracing_parameters_do_not_load_models() -> None:
    llm = ChatArbitrage(**pair(), stop=["x"])
    assert llm.profile["max_input_tokens"] == 1024
    assert llm.profile["structured_output"]
    assert llm._get_ls_params()["ls_stop"] == ["x"]
    assert llm._get_ls_params(model="other")["ls_model_name"] == "other"
    assert "_models" not in llm.__dict__


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_thinking_is_returned_as_reasoning_and_ends_at_its_limit(version: str) -> None:
    models = pair(endless=True, template=THINKING)
    llm = ChatArbitrage(
        **models, separator=" ", max_tokens=30, max_thinking_tokens=9, output_version=version
    )
    whole = llm.invoke("Hi")
    chunks = list(llm.stream("Hi"))
    streamed = sum(chunks[1:], chunks[0])
    for message in (whole, streamed):
        kinds = [block["type"] for block in message.content_blocks]
        assert kinds == ["reasoning", "text"]
        thought = message.content_blocks[0]["reasoning"]
        assert "</think>" not in message.text + thought
        assert message.text
    assert whole.text == streamed.text
    details = whole.usage_metadata["output_token_details"]
    # The newline before the closing mark is one more token.
    assert 0 < details["reasoning"] <= 9 + 1 < whole.usage_metadata["output_tokens"]
    endless = llm.invoke("Hi", max_thinking_tokens=30)
    assert endless.text == ""
    llm.close()
