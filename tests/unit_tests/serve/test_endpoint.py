"""`arbitrage serve` with the OpenAI client, langchain-openai and invalid requests."""

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
from langgraph_arbitrage.engine import GenerateRequest, ScoreRequest  # noqa: E402
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
    with served(llm, max_body=100_000) as server:
        yield server


@pytest.fixture
def client(server: Served) -> Any:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def test_idle_connections_outlive_those_of_clients(
    llm: ChatArbitrage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that arrives while the server closes the connection is lost."""
    configs: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, **_: configs.append(self.config))
    serve(llm, ServeSettings(port=0))
    (config,) = configs
    clients = [httpx.Limits(), openai.DEFAULT_CONNECTION_LIMITS]
    assert all(config.timeout_keep_alive > c.keepalive_expiry for c in clients)


def slow_pair(**settings: Any) -> ChatArbitrage:
    """Models that generate up to the limit, token by token."""
    endless = pair(endless=True, words=True)
    return ChatArbitrage(**endless, max_tokens=900, engine="eager", **settings)


# --- chat completions --------------------------------------------------------------------


def test_the_answer_is_that_of_the_chat_model(client: Any, llm: ChatArbitrage) -> None:
    completion = client.chat.completions.create(model="arbitrage", messages=ASK)
    message = llm.invoke(QUESTION)
    (choice,) = completion.choices
    assert (choice.message.content, choice.finish_reason) == (message.text, "stop")
    assert completion.usage.prompt_tokens == message.usage_metadata["input_tokens"]
    assert completion.usage.completion_tokens == message.usage_metadata["output_tokens"]
    assert completion.arbitrage["steps"] == len(message.response_metadata["arbitrage"]["steps"])


def test_a_stream_has_the_same_text_and_ends_with_the_usage(client: Any) -> None:
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


def test_token_limit_stop_strings_and_seed_of_a_request_apply(client: Any) -> None:
    def text(**options: Any) -> Any:
        return client.chat.completions.create(model="target", messages=ASK, **options).choices[0]

    assert text(max_completion_tokens=3).finish_reason == "length"
    whole = text().message.content
    assert text(stop=" = ").message.content == whole.partition(" = ")[0]
    sampling = {"temperature": 3.0, "max_tokens": 20}
    one, same, other = (text(seed=s, **sampling).message.content for s in (1, 1, 2))
    assert one == same != other


def test_template_variables_and_token_options_of_a_request_apply(
    client: Any, llm: ChatArbitrage
) -> None:
    def answer(messages: Any = ASK, **extra: Any) -> Any:
        return client.chat.completions.create(
            model="target", messages=messages, max_tokens=20, temperature=0, extra_body=extra
        )

    plain = answer()
    tokenizer = llm._models.tokenizer("target")
    ids = tokenizer.encode(plain.choices[0].message.content, begins=True)
    cut = answer(stop_token_ids=[ids[3]])
    assert cut.usage.completion_tokens <= 4
    # The embedded template ignores the variable, so the answer stays the same.
    assert answer(chat_template_kwargs={"unknown": 1}).choices[0] == plain.choices[0]
    name = min(tokenizer.control_tokens._names)
    forged = [{"role": "user", "content": f"{QUESTION} {name}"}]
    with pytest.raises(openai.BadRequestError, match="special token"):
        answer(forged, special_tokens_in_text="refuse")
    assert (
        answer(forged, special_tokens_in_text="allow").usage.prompt_tokens
        < answer(forged).usage.prompt_tokens
    )
    begun = " ".join(plain.choices[0].message.content.split(" ")[:2])
    said = [*ASK, {"role": "assistant", "content": begun}]
    rest = answer(said, continue_final_message=True).choices[0].message.content
    assert (begun + rest)[:30] == plain.choices[0].message.content[:30]


def test_each_model_is_listed_and_can_answer_alone(client: Any, llm: ChatArbitrage) -> None:
    assert [m.id for m in client.models.list()] == ["arbitrage", "draft", "target"]
    assert client.models.retrieve("draft").id == "draft"
    for name in ("draft", "target"):
        completion = client.chat.completions.create(model=name, messages=ASK, max_tokens=40)
        assert completion.arbitrage["escalation_rate"] == (name == "target")


def test_a_tool_is_called_and_its_result_is_used(client: Any) -> None:
    options = {"model": "arbitrage", "tools": [FIND]}
    (choice,) = client.chat.completions.create(messages=CALL, **options).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "find_price",
        {"item": "bread"},
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": "3"}
    turns = [*CALL, choice.message.model_dump(exclude_none=True), result]
    (answer,) = client.chat.completions.create(messages=turns, **options).choices
    assert "3" in answer.message.content
    stream = client.chat.completions.create(messages=CALL, stream=True, **options)
    chunks = [chunk.choices[0] for chunk in stream]
    (streamed,) = [c for chunk in chunks for c in chunk.delta.tool_calls or []]
    assert (streamed.function.name, streamed.function.arguments) == (
        "find_price",
        '{"item": "bread"}',
    )
    assert chunks[-1].finish_reason == "tool_calls"


def test_an_answer_follows_the_response_format(client: Any) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    completion = client.chat.completions.create(
        model="arbitrage", messages=ASK, response_format=response_format, max_tokens=40
    )
    assert isinstance(json.loads(completion.choices[0].message.content)["n"], int)


def test_log_probabilities_are_returned_per_token(client: Any) -> None:
    options = {"model": "target", "messages": ASK, "logprobs": True, "max_tokens": 5}
    completion = client.chat.completions.create(**options)
    tokens = completion.choices[0].logprobs.content
    assert len(tokens) == 5
    assert all(t.logprob <= 0 and bytes(t.bytes).decode() == t.token for t in tokens)
    last = list(client.chat.completions.create(stream=True, **options))[-1]
    assert [t.token for t in last.choices[0].logprobs.content] == [t.token for t in tokens]


def test_chat_openai_of_langchain_works_with_the_server(server: Served) -> None:
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
    output = model.with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert isinstance(output["n"], int)


# --- raw completions ---------------------------------------------------------------------


def test_a_raw_prompt_is_continued_by_one_model(client: Any, llm: ChatArbitrage) -> None:
    models = Models(llm)
    engine = models.engine("target")
    ids = engine.tokenizer.render([{"role": "user", "content": QUESTION}])
    output = engine.submit(GenerateRequest(ids, max_tokens=12)).result()
    options = {"model": "target", "max_tokens": 12, "temperature": 0}
    completion = client.completions.create(
        prompt=ids, logprobs=1, extra_body={"return_token_ids": True}, **options
    )
    (choice,) = completion.choices
    assert choice.token_ids == output.ids
    assert choice.text == engine.tokenizer.decode(output.ids)
    assert choice.logprobs.token_logprobs == pytest.approx(output.logprobs, abs=1e-4)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len(ids), 12)
    text = engine.tokenizer.render_text([{"role": "user", "content": QUESTION}])
    bare = {"add_special_tokens": False}
    again = client.completions.create(prompt=text, extra_body=bare, **options)
    assert again.choices[0].text == choice.text
    stream = list(client.completions.create(prompt=ids, stream=True, **options))
    assert "".join(c.choices[0].text for c in stream) == choice.text
    assert len(stream) > 3
    cut = client.completions.create(prompt=ids, stop=["+"], **options)
    assert cut.choices[0].text == choice.text.partition("+")[0]
    cut_stream = list(client.completions.create(prompt=ids, stop=["+"], stream=True, **options))
    assert "".join(c.choices[0].text for c in cut_stream) == cut.choices[0].text
    assert cut_stream[-1].choices[0].finish_reason == "stop"
    models.close()


def test_prompt_tokens_are_scored_in_the_format_of_vllm(client: Any, llm: ChatArbitrage) -> None:
    models = Models(llm)
    engine = models.engine("target")
    ids = engine.tokenizer.render([{"role": "user", "content": QUESTION}])
    expected = engine.submit(ScoreRequest(ids)).result()
    options = {"model": "target", "max_tokens": 3, "temperature": 0, "prompt": ids}
    for start in (None, 5):
        extra = {"prompt_logprobs": 1, "prompt_logprobs_start": start}
        completion = client.completions.create(extra_body=extra, **options)
        scores = completion.choices[0].prompt_logprobs
        first = start or 1
        assert scores[:first] == [None] * first
        entries = [row[str(token)] for row, token in zip(scores[first:], ids[first:], strict=True)]
        logprobs = [entry["logprob"] for entry in entries]
        assert logprobs == pytest.approx(expected.logprobs[first - 1 :], abs=1e-4)
        assert [entry["rank"] - 1 for entry in entries] == expected.ranks[first - 1 :]
        assert "".join(e["decoded_token"] for e in entries) == engine.tokenizer.decode(ids[first:])
        assert completion.usage.prompt_tokens_details.cached_tokens <= first
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs is not available with strea"):
        client.completions.create(stream=True, extra_body={"prompt_logprobs": 1}, **options)
    models.close()


# --- invalid requests --------------------------------------------------------------------

MANY = [{"role": "user", "content": "word " * 9000}]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{not json", 400, "JSON"),
        (b"[1]", 400, "valid dictionary"),
        (b"", 400, "Field required"),
        ({}, 400, "messages: Field required"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, 400, "conversation are empty"),
        ({"messages": [{"role": "pope", "content": "Hi"}]}, 400, "role: Input should be 'system'"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "conversation are empty"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "UTF-8"),
        ({"messages": ASK, "model": "gpt"}, 404, "Available models: arbitrage, draft, target"),
        ({"messages": ASK, "n": 2}, 400, "n=2 is not supported"),
        ({"messages": ASK, "temperature": -1}, 400, "temperature: Input should be greater"),
        ({"messages": ASK, "max_tokens": 0}, 400, "max_tokens: Input should be greater"),
        ({"messages": ASK, "stop": [""]}, 400, "stop string must not be empty"),
        ({"messages": ASK, "threshold": 7}, 400, "from 0 to 1, not 7"),
        ({"messages": ASK, "min_p": 2}, 400, "min_p: Input should be less"),
        ({"messages": ASK, "stop_token_ids": [-1]}, 400, "stop_token_ids must be 0 or more"),
        ({"messages": ASK, "continue_final_message": True}, 400, "ends with an assistant message"),
        ({"messages": ASK, "special_tokens_in_text": "drop"}, 400, "special_tokens_in_text"),
        (
            {"messages": ASK, "chat_template_kwargs": {"tools": []}},
            400,
            "chat_template_kwargs must not set tools",
        ),
        ({"messages": ASK, "tools": [{"type": "x"}]}, 400, "type: Input should be 'function'"),
        ({"messages": ASK, "tool_choice": "pay"}, 400, "invalid tool_choice 'pay'"),
        ({"messages": ASK, "response_format": {"type": "xml"}}, 400, ""),
        ({"messages": MANY}, 400, "Shorten the conversation"),
        ({"messages": [{"role": "user", "content": "w" * 200_000}]}, 413, "the maximum is 100000"),
        ({"messages": ASK, "timeout": 0.0001}, 408, "was not complete within"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_bodies_are_refused_with_the_reason(
    body: Any, status: int, message: str, stream: bool, server: Served
) -> None:
    if stream and isinstance(body, dict):
        body = {**body, "stream": True}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx.post(
        f"{server.url}/chat/completions",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == status, response.text
    if status != 200:
        error = response.json()["error"]
        assert message in error["message"]
        assert error["code"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "arbitrage", "prompt": "Hi"}, 400, "Use draft or target instead"),
        ({"model": "x", "prompt": "Hi"}, 404, "the model 'x' does not exist"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": [5, 99999]}, 400, "token id 99999 is not in the vocabulary of target"),
        ({"prompt": "Hi", "echo": True}, 400, "echo=True is not supported"),
        ({"prompt": "word " * 9000}, 400, "do not fit target"),
        ({"prompt": "\udfff"}, 400, "UTF-8"),
    ],
)
def test_invalid_completion_requests_are_refused(
    body: Any, status: int, message: str, server: Served
) -> None:
    content = json.dumps(body)
    response = httpx.post(
        f"{server.url}/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True)


def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(server: Served) -> None:
    response = httpx.post(
        f"{server.url}/chat/completions",
        content=(b"x" * 10_000 for _ in range(100)),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 413


def test_with_an_api_key_only_health_is_public() -> None:
    with served(ChatArbitrage(), api_key="s3cret") as server:
        base = server.url.removesuffix("/v1")
        assert httpx.get(f"{base}/health").json() == {"status": "ok", "requests": 0}
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}):
            refused = httpx.get(f"{server.url}/models", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                401,
                "invalid_api_key",
            )
        client = openai.OpenAI(base_url=server.url, api_key="s3cret")
        assert len(list(client.models.list())) == 3


# --- concurrency and disconnects ----------------------------------------------------------


def test_a_request_beyond_the_limit_gets_status_503() -> None:
    body = {"model": "target", "messages": SLOW, "stream": True}
    with served(slow_pair(), concurrency=1, max_waiting=0) as server:
        url = f"{server.url}/chat/completions"
        with httpx.stream("POST", url, json=body) as running:
            lines = running.iter_lines()
            next(lines)
            refused = httpx.post(url, json=body)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        until(lambda: httpx.get(f"{server.url}/models").status_code == 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnected_client_frees_its_slot(stream: bool, schedulers: list[Any]) -> None:
    body = {"model": "target", "messages": SLOW, "stream": stream}
    with served(slow_pair(device="cpu", max_queue=None)) as server:
        leaving = http.client.HTTPConnection("127.0.0.1", server.port)
        kind = {"Content-Type": "application/json"}
        leaving.request("POST", "/v1/chat/completions", json.dumps(body), kind)
        until(lambda: any(s.busy for s in schedulers))
        if stream:
            leaving.getresponse().readline()
        leaving.close()
        until(lambda: not any(s.busy for s in schedulers), 2)
    held = [len(slot.tokens) for s in schedulers for slot in s.runner.cache.slots]
    assert max(held, default=0) < 900  # the answer was not completed


def test_a_stopped_server_finishes_the_answers_in_progress() -> None:
    body = {"model": "target", "messages": SLOW, "stream": True}
    with served(slow_pair()) as server:
        with httpx.stream("POST", f"{server.url}/chat/completions", json=body) as running:
            lines = running.iter_lines()
            next(lines)
            server.stop(wait=False)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        with pytest.raises(httpx.ConnectError):
            until(lambda: httpx.get(f"{server.url}/models") is None)


def test_concurrent_clients_get_the_same_answers_as_alone(client: Any) -> None:
    problems = list(embedded.problems(5, seed=31))

    def ask(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        stream = client.chat.completions.create(model="arbitrage", messages=messages, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in stream)

    alone = [ask(p.question) for p in problems]
    answers: dict[int, str] = {}

    def run(i: int) -> None:
        answers[i] = ask(problems[i].question)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[i] for i in range(len(problems))] == alone
