"""`arbitrage serve`, asked by the official client, by langchain-openai and by bad requests."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

import httpx  # noqa: E402
import uvicorn  # noqa: E402

from langgraph_arbitrage import ChatArbitrage, embedded  # noqa: E402
from langgraph_arbitrage.engine import GenerateRequest  # noqa: E402
from langgraph_arbitrage.loop.models import Models  # noqa: E402
from langgraph_arbitrage.serve import ServeSettings  # noqa: E402
from langgraph_arbitrage.serve.server import serve  # noqa: E402
from serving import Served, served  # noqa: E402
from spies import schedulers, until  # noqa: E402
from tiny import QUESTIONS, pair  # noqa: E402

__all__ = ["schedulers"]

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
QUESTION = "Ann has 34 apples. She buys 58 more apples. How many apples does she have now?"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]
FIND: Any = {
    "type": "function",
    "function": {
        "name": "find_price",
        "description": "The price of an item.",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string"}},
            "required": ["item"],
        },
    },
}
SLOW: list[Any] = [{"role": "user", "content": QUESTIONS[0]}]
CALL: list[Any] = [{"role": "user", "content": "Use find_price with item bread."}]


@pytest.fixture(scope="module")
def llm() -> ChatArbitrage:
    return ChatArbitrage(max_tokens=200)


@pytest.fixture(scope="module")
def server(llm: ChatArbitrage) -> Iterator[Served]:
    with served(llm, max_body=100_000) as found:
        yield found


@pytest.fixture
def client(server: Served) -> Any:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as found:
        yield found


def test_idle_connections_are_kept_longer_than_clients_keep_theirs(
    llm: ChatArbitrage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who closes at the moment at which the other one asks breaks a request."""
    configs: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, **_: configs.append(self.config))
    serve(llm, ServeSettings(port=0))
    (config,) = configs
    clients = [httpx.Limits(), openai.DEFAULT_CONNECTION_LIMITS]
    assert all(config.timeout_keep_alive > c.keepalive_expiry for c in clients)


def slow_pair(**settings: Any) -> ChatArbitrage:
    """Models that write on until the limit, token by token."""
    endless = pair(endless=True, words=True)
    return ChatArbitrage(**endless, max_tokens=900, engine="eager", **settings)


# --- chat completions --------------------------------------------------------------------


def test_an_answer_is_that_of_the_chat_model(client: Any, llm: ChatArbitrage) -> None:
    found = client.chat.completions.create(model="arbitrage", messages=ASK)
    message = llm.invoke(QUESTION)
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == (message.text, "stop")
    assert found.usage.prompt_tokens == message.usage_metadata["input_tokens"]
    assert found.usage.completion_tokens == message.usage_metadata["output_tokens"]
    assert found.arbitrage["steps"] == len(message.response_metadata["arbitrage"]["steps"])


def test_a_stream_tells_the_same_piece_by_piece_and_the_usage_at_its_end(client: Any) -> None:
    whole = client.chat.completions.create(model="arbitrage", messages=ASK)
    stream = client.chat.completions.create(
        model="arbitrage", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content
    assert sum(bool(d.content) for d in deltas) > 3
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert not last.choices


def test_limits_stop_strings_and_seeds_of_a_request_are_kept(client: Any) -> None:
    def text(**options: Any) -> Any:
        return client.chat.completions.create(model="target", messages=ASK, **options).choices[0]

    assert text(max_completion_tokens=3).finish_reason == "length"
    whole = text().message.content
    assert text(stop=" = ").message.content == whole.partition(" = ")[0]
    hot = {"temperature": 3.0, "max_tokens": 20}
    one, same, other = (text(seed=s, **hot).message.content for s in (1, 1, 2))
    assert one == same != other


def test_each_model_is_listed_and_answers_alone(client: Any, llm: ChatArbitrage) -> None:
    assert [m.id for m in client.models.list()] == ["arbitrage", "draft", "target"]
    assert client.models.retrieve("draft").id == "draft"
    for name in ("draft", "target"):
        found = client.chat.completions.create(model=name, messages=ASK, max_tokens=40)
        assert found.arbitrage["escalation_rate"] == (name == "target")


def test_a_tool_is_called_and_its_result_read(client: Any) -> None:
    asked = {"model": "arbitrage", "tools": [FIND]}
    (choice,) = client.chat.completions.create(messages=CALL, **asked).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "find_price",
        {"item": "bread"},
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": "3"}
    turns = [*CALL, choice.message.model_dump(exclude_none=True), result]
    (answer,) = client.chat.completions.create(messages=turns, **asked).choices
    assert "3" in answer.message.content
    stream = client.chat.completions.create(messages=CALL, stream=True, **asked)
    chunks = [chunk.choices[0] for chunk in stream]
    (told,) = [c for chunk in chunks for c in chunk.delta.tool_calls or []]
    assert (told.function.name, told.function.arguments) == ("find_price", '{"item": "bread"}')
    assert chunks[-1].finish_reason == "tool_calls"


def test_a_response_format_is_kept_to(client: Any) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    found = client.chat.completions.create(
        model="arbitrage", messages=ASK, response_format=wanted, max_tokens=40
    )
    assert isinstance(json.loads(found.choices[0].message.content)["n"], int)


def test_log_probabilities_are_told_token_by_token(client: Any) -> None:
    asked = {"model": "target", "messages": ASK, "logprobs": True, "max_tokens": 5}
    found = client.chat.completions.create(**asked)
    tokens = found.choices[0].logprobs.content
    assert len(tokens) == 5
    assert all(t.logprob <= 0 and bytes(t.bytes).decode() == t.token for t in tokens)
    last = list(client.chat.completions.create(stream=True, **asked))[-1]
    assert [t.token for t in last.choices[0].logprobs.content] == [t.token for t in tokens]


def test_langchains_openai_model_works_against_it(server: Served) -> None:
    chat_openai = pytest.importorskip("langchain_openai").ChatOpenAI
    model = chat_openai(
        model="arbitrage", base_url=server.url, api_key="none", max_retries=0, stream_usage=True
    )
    whole = model.invoke(QUESTION)
    assert whole.text == "".join(chunk.text for chunk in model.stream(QUESTION))
    assert whole.usage_metadata["output_tokens"] > 0
    (call,) = model.bind_tools([FIND]).invoke(CALL[0]["content"]).tool_calls
    assert (call["name"], call["args"]) == ("find_price", {"item": "bread"})
    schema = {"title": "N", "type": "object", "properties": {"n": {"type": "integer"}}}
    schema["required"] = ["n"]
    found = model.with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert isinstance(found["n"], int)


# --- raw completions ---------------------------------------------------------------------


def test_raw_text_is_gone_on_from_by_one_model_alone(client: Any, llm: ChatArbitrage) -> None:
    models = Models(llm)
    engine = models.engine("target")
    ids = engine.tokenizer.render([{"role": "user", "content": QUESTION}])
    written = engine.submit(GenerateRequest(ids, max_tokens=12)).result()
    asked = {"model": "target", "max_tokens": 12, "temperature": 0}
    found = client.completions.create(
        prompt=ids, logprobs=1, extra_body={"return_token_ids": True}, **asked
    )
    (choice,) = found.choices
    assert choice.token_ids == written.ids
    assert choice.text == engine.tokenizer.decode(written.ids)
    assert choice.logprobs.token_logprobs == pytest.approx(written.logprobs, abs=1e-4)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(ids), 12)
    text = engine.tokenizer.render_text([{"role": "user", "content": QUESTION}])
    bare = {"add_special_tokens": False}
    again = client.completions.create(prompt=text, extra_body=bare, **asked)
    assert again.choices[0].text == choice.text
    stream = list(client.completions.create(prompt=ids, stream=True, **asked))
    assert "".join(c.choices[0].text for c in stream) == choice.text
    assert len(stream) > 3
    cut = client.completions.create(prompt=ids, stop=["+"], **asked)
    assert cut.choices[0].text == choice.text.partition("+")[0]
    told = list(client.completions.create(prompt=ids, stop=["+"], stream=True, **asked))
    assert "".join(c.choices[0].text for c in told) == cut.choices[0].text
    assert told[-1].choices[0].finish_reason == "stop"
    models.close()


# --- what is refused ---------------------------------------------------------------------

MANY = [{"role": "user", "content": "word " * 9000}]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{not json", 400, "JSON"),
        (b"[1]", 400, "valid dictionary"),
        (b"", 400, "Field required"),
        ({}, 400, "messages: Field required"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, 400, "says nothing"),
        ({"messages": [{"role": "pope", "content": "Hi"}]}, 400, "role: Input should be 'system'"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "says nothing"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "UTF-8"),
        ({"messages": ASK, "model": "gpt"}, 404, "those served are arbitrage, draft, target"),
        ({"messages": ASK, "n": 2}, 400, "n=2 is not supported"),
        ({"messages": ASK, "temperature": -1}, 400, "temperature: Input should be greater"),
        ({"messages": ASK, "max_tokens": 0}, 400, "max_tokens: Input should be greater"),
        ({"messages": ASK, "stop": [""]}, 400, "stop string must not be empty"),
        ({"messages": ASK, "threshold": 7}, 400, "from 0 to 1, not 7"),
        ({"messages": ASK, "tools": [{"type": "x"}]}, 400, "type: Input should be 'function'"),
        ({"messages": ASK, "tool_choice": "pay"}, 400, "tool_choice 'pay' is not"),
        ({"messages": ASK, "response_format": {"type": "xml"}}, 400, ""),
        ({"messages": MANY}, 400, "Shorten the conversation"),
        ({"messages": [{"role": "user", "content": "w" * 200_000}]}, 413, "at most 100000 are"),
        ({"messages": ASK, "timeout": 0.0001}, 408, "was not complete within"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_bodies_are_refused_with_the_reason(
    body: Any, status: int, told: str, stream: bool, server: Served
) -> None:
    if stream and isinstance(body, dict):
        body = {**body, "stream": True}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = httpx.post(
        f"{server.url}/chat/completions",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert found.status_code == status, found.text
    if status != 200:
        error = found.json()["error"]
        assert told in error["message"]
        assert error["code"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"model": "arbitrage", "prompt": "Hi"}, 400, "written by draft or target"),
        ({"model": "x", "prompt": "Hi"}, 404, "there is no model 'x'"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": [5, 99999]}, 400, "token id 99999 is none of target"),
        ({"prompt": "Hi", "echo": True}, 400, "echo=True is not supported"),
        ({"prompt": "word " * 9000}, 400, "do not fit target"),
        ({"prompt": "\udfff"}, 400, "UTF-8"),
    ],
)
def test_bad_raw_prompts_are_refused(body: Any, status: int, told: str, server: Served) -> None:
    content = json.dumps(body)
    found = httpx.post(
        f"{server.url}/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert (found.status_code, told in found.json()["error"]["message"]) == (status, True)


def test_a_body_of_unknown_length_is_refused_when_it_gets_too_large(server: Served) -> None:
    found = httpx.post(
        f"{server.url}/chat/completions",
        content=(b"x" * 10_000 for _ in range(100)),
        headers={"Content-Type": "application/json"},
    )
    assert found.status_code == 413


def test_with_a_key_nothing_but_health_is_told_without_it() -> None:
    with served(ChatArbitrage(), api_key="s3cret") as found:
        base = found.url.removesuffix("/v1")
        assert httpx.get(f"{base}/health").json() == {"status": "ok", "requests": 0}
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}):
            refused = httpx.get(f"{found.url}/models", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                401,
                "invalid_api_key",
            )
        client = openai.OpenAI(base_url=found.url, api_key="s3cret")
        assert len(list(client.models.list())) == 3


# --- many, and those who leave -----------------------------------------------------------


def test_a_request_too_many_is_told_to_come_back() -> None:
    body = {"model": "target", "messages": SLOW, "stream": True}
    with served(slow_pair(), concurrency=1, max_waiting=0) as found:
        url = f"{found.url}/chat/completions"
        with httpx.stream("POST", url, json=body) as running:
            lines = running.iter_lines()
            next(lines)
            refused = httpx.post(url, json=body)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        until(lambda: httpx.get(f"{found.url}/models").status_code == 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(stream: bool, schedulers: list[Any]) -> None:
    body = {"model": "target", "messages": SLOW, "stream": stream}
    with served(slow_pair(device="cpu", max_queue=None)) as found:
        leaving = http.client.HTTPConnection("127.0.0.1", found.port)
        kind = {"Content-Type": "application/json"}
        leaving.request("POST", "/v1/chat/completions", json.dumps(body), kind)
        until(lambda: any(s.busy for s in schedulers))
        if stream:
            leaving.getresponse().readline()
        leaving.close()
        until(lambda: not any(s.busy for s in schedulers), 2)
    held = [len(slot.tokens) for s in schedulers for slot in s.runner.cache.slots]
    assert max(held, default=0) < 900  # it was not finished


def test_told_to_stop_it_finishes_the_answers_that_run() -> None:
    body = {"model": "target", "messages": SLOW, "stream": True}
    with served(slow_pair()) as found:
        with httpx.stream("POST", f"{found.url}/chat/completions", json=body) as running:
            lines = running.iter_lines()
            next(lines)
            found.stop(wait=False)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        with pytest.raises(httpx.ConnectError):
            until(lambda: httpx.get(f"{found.url}/models") is None)


def test_clients_at_a_time_get_what_they_get_alone(client: Any) -> None:
    problems = list(embedded.problems(5, seed=31))

    def ask(question: str) -> str:
        asked = [{"role": "user", "content": question}]
        stream = client.chat.completions.create(model="arbitrage", messages=asked, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in stream)

    alone = [ask(p.question) for p in problems]
    found: dict[int, str] = {}

    def note(i: int) -> None:
        found[i] = ask(problems[i].question)

    threads = [threading.Thread(target=note, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(problems))] == alone
