"""Tool calls and structured output of the chat model, with random tiny models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from pydantic import BaseModel, Field

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ChatArbitrage,
    Context,
    Policy,
    create_arbitrage_graph,
)
from langgraph_arbitrage.errors import (
    ContextLengthError,
    GrammarError,
    MissingExtraError,
    SettingsError,
)
from tiny import pair

TEMPLATE = (
    "{% if tools %}<system>{{ tools | tojson }}<end>{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def look_up(city: str, days: int = 1) -> str:
    """Look up a city."""
    return f"{city} {days}"


class Size(BaseModel):
    """A size."""

    width: int = Field(ge=0, le=99)
    unit: str


@dataclass(frozen=True)
class AcceptAll(Policy):
    """Accepts every step and records the texts of the scored ones."""

    scored: list[str]

    def score(self, view: Any, outputs: Any) -> float:
        self.scored.append(view.draft.text)
        return 0.0

    def escalates(self, score: float | None) -> bool:
        return False


@pytest.fixture(scope="module")
def llm() -> Iterator[ChatArbitrage]:
    chat = ChatArbitrage(**pair(template=TEMPLATE), max_tokens=130)
    yield chat
    chat.close()


@pytest.mark.parametrize(
    ("choice", "policy"),
    [("any", AlwaysDraft()), ("look_up", AlwaysTarget()), ("Size", AlwaysDraft())],
)
async def test_a_forced_call_matches_its_schema_with_every_policy(
    choice: str, policy: Policy, llm: ChatArbitrage
) -> None:
    bound = llm.model_copy(update={"router": policy}).bind_tools(
        [look_up, Size], tool_choice=choice
    )
    whole = bound.invoke("Hi")
    streamed = merged([c async for c in bound.astream("Hi")])
    for message in (whole, streamed, await bound.ainvoke("Hi")):
        (call,) = message.tool_calls
        assert choice in ("any", call["name"])
        args = call["args"]
        assert Size(**args) if call["name"] == "Size" else isinstance(args["city"], str)
        assert (message.content, message.invalid_tool_calls) == ("", [])
    assert whole.tool_calls[0]["args"] == streamed.tool_calls[0]["args"]


def merged(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [Size, Size.model_json_schema()], ids=["class", "schema"])
async def test_structured_output_matches_its_schema_with_every_method(
    method: Any, schema: Any, llm: ChatArbitrage
) -> None:
    chain = llm.with_structured_output(schema, method=method, include_raw=True)
    output = chain.invoke("Hi", config={"tags": ["x"]})
    assert isinstance(output["raw"], AIMessage)
    assert output["parsing_error"] is None
    parsed_only = llm.with_structured_output(schema, method=method)
    *_, last = [part async for part in parsed_only.astream("Hi")]
    for value in (output["parsed"], parsed_only.invoke("Hi"), last):
        assert Size.model_validate(value if schema is not Size else value.model_dump())


def test_an_answer_is_a_call_or_json_if_both_are_allowed(llm: ChatArbitrage) -> None:
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "Size", "schema": Size.model_json_schema()},
    }
    bound = llm.bind_tools([look_up], response_format=response_format, temperature=20.0)
    kinds = set()
    for seed in range(6):
        message = bound.invoke("Hi", seed=seed)
        kinds.add("call" if message.tool_calls else "json")
        assert message.tool_calls or Size.model_validate_json(message.text)
    assert kinds == {"call", "json"}


def test_an_invalid_call_of_the_draft_is_escalated_without_the_policy(
    llm: ChatArbitrage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the draft step is replaced by invalid and valid calls."""
    policy = AcceptAll([])
    graph = create_arbitrage_graph(
        **pair(template=TEMPLATE), max_tokens=60, router=policy
    ).compile()
    texts = {
        '<tool_call>{"name": "look_up", "arguments": {"city": "Rome"}}</tool_call>': "draft",
        '<tool_call>{"name": "look_up", "arguments": {"city": 3}}</tool_call>': "target",
        '<tool_call>{"name": "look_up", "argu</tool_call>': "target",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>': "target",
        '<tool_call>{"name": "look_up", "arguments": {}}</tool_call>': "target",
        "No call at all.": "draft",
    }
    for text, writer in texts.items():
        state = run_with_draft(graph, text, monkeypatch)
        assert state["steps"][0]["writer"] == writer, text
    assert [t for t, writer in texts.items() if writer == "draft"] == policy.scored


def run_with_draft(graph: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the state after a run whose draft generates `text` as its only step."""
    from langgraph_arbitrage.loop.generation import Generation

    pending = Generation.pending

    def replace_text(self: Any, role: str, state: Any, *outputs: Any) -> Any:
        step = pending(self, role, state, *outputs)
        return {**step, "text": text, "finish_reason": "end"} if role == "draft" else step

    monkeypatch.setattr(Generation, "pending", replace_text)
    state = graph.invoke(
        {"messages": [("user", "Hi")]}, context=Context(tools=[look_up], max_tokens=20)
    )
    monkeypatch.setattr(Generation, "pending", pending)
    return state


def test_a_step_does_not_end_inside_a_call() -> None:
    from langgraph_arbitrage.decoding.stop_rule import stop_rule
    from langgraph_arbitrage.engine import Tokenizer
    from tiny import tokenizer

    hf = Tokenizer(tokenizer(), "tiny", None)
    rule = stop_rule(hf, ("\n\n",), (), (("<tool_call>", "</tool_call>"),))

    def first_step(text: str) -> str:
        ids: list[int] = []
        for token in hf.encode(text):
            ids.append(token)
            if rule.match(None, ids, ""):
                break
        return hf.decode(ids)

    assert first_step("One.\n\nTwo.") == "One.\n\n"
    call = '<tool_call>{"a":\n\n1}</tool_call>'
    assert first_step(f"{call}\n<tool_call>") == call
    assert first_step(f"Text {call} more\n\n") == f"Text {call}"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tools": [3]}, SettingsError, "cannot be used as a tool"),
        ({"tools": [{"type": "web_search"}]}, SettingsError, "executed by a provider"),
        ({"tools": [look_up], "tool_choice": "other"}, SettingsError, "any, none or .*look_up"),
        ({"tool_choice": "any"}, SettingsError, "no tools were passed"),
        ({"response_format": {"type": "json_schema"}}, SettingsError, "requires {'json_schema'"),
        ({"response_format": {"type": "string", "not": {}}}, GrammarError, "compiled: .*not"),
        (
            {"response_format": {"type": "object", "description": "x" * 200_001}},
            GrammarError,
            "200.* characters",
        ),
        ({"tools": [{"title": "f", "properties": {"a": {"type": "strin"}}}],
          "tool_choice": "f"}, GrammarError, "cannot be compiled: .*strin"),
        ({"warmth": 3}, SettingsError, "Unknown setting 'warmth'"),
    ],
)  # fmt: skip
def test_invalid_tools_and_formats_are_rejected_before_a_model_loads(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    llm = ChatArbitrage(**pair(template=TEMPLATE, hidden_size=48))
    with pytest.raises(error, match=message):
        llm.invoke("Hi", **options)
    assert llm._models.backends(["draft", "target"]) == {}
    llm.close()


def test_without_the_extra_the_error_contains_the_install_command(
    llm: ChatArbitrage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langgraph_arbitrage.decoding import grammar

    grammar._compiled.cache_clear()
    grammar._vocabulary.cache_clear()
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'langgraph-arbitrage\[structured\]'"):
        llm.with_structured_output(Size).invoke("Hi")
    assert llm.bind_tools([look_up]).invoke("Hi").response_metadata["finish_reason"]


def test_tools_longer_than_the_context_are_rejected_with_token_counts(llm: ChatArbitrage) -> None:
    tool = {"title": "f", "description": "words " * 2000, "properties": {}}
    with pytest.raises(ContextLengthError, match=r"\d+ tokens .* reads 1024"):
        llm.bind_tools([tool]).invoke("Hi")


def test_an_answer_of_several_steps_matches_its_grammar(llm: ChatArbitrage) -> None:
    """Each step is a separate request, whose grammar continues after the previous steps."""
    answer = llm.invoke("Hi", response_format=Size, max_step_tokens=3)
    assert len(answer.response_metadata["arbitrage"]["steps"]) > 3
    assert Size.model_validate_json(answer.text)
    json.loads(answer.text)
