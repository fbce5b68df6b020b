"""A target on a server gives the same answers as a local one, also after server failures."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

from langgraph.checkpoint.memory import InMemorySaver
from starlette.responses import JSONResponse, PlainTextResponse

from fronts import MODELS, RUN, Front, address, local_answer, words
from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    ChatArbitrage,
    DraftConfidence,
    Judge,
    TargetLikelihood,
    create_arbitrage_graph,
    embedded,
)
from langgraph_arbitrage.engine import GenerateRequest, ModelSpec, ScoreRequest, acquire, release
from langgraph_arbitrage.errors import (
    ArbitrageError,
    CheckpointError,
    ContextLengthError,
    EngineBusyError,
    EngineError,
    GrammarError,
    MissingExtraError,
    SettingsError,
)
from langgraph_arbitrage.serve import ServeSettings
from langgraph_arbitrage.serve.app import create_app
from serving import Served
from spies import schedulers
from tiny import QUESTIONS, make

__all__ = ["schedulers"]

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

# --- same answers as a local target ------------------------------------------------------


@pytest.mark.parametrize("prompt", ["auto", "ids", "text"])
def test_answers_equal_those_of_a_local_target(prompt: str, server: Served) -> None:
    remote = ChatArbitrage(**RUN, target=address(server, prompt=prompt))
    for question in QUESTIONS[:2]:
        message, local = remote.invoke(question), local_answer(question)
        assert words(message) == words(local)
        assert message.usage_metadata["total_tokens"] == local.usage_metadata["total_tokens"]
        assert message.response_metadata["arbitrage"]["engine"] == {
            "draft": "slot",
            "target": "remote",
        }
    remote.close()


def test_an_escalated_step_is_one_request(front: Front, server: Served) -> None:
    remote = ChatArbitrage(**RUN, target=address(server))
    message = remote.invoke(QUESTIONS[0])
    streams = [body for body in front.asked if body.get("stream")]
    assert len(streams) == sum(writer == "target" for writer, _ in words(message)) > 1
    assert len(front.asked) == len(streams) + 2  # the probe
    remote.invoke(QUESTIONS[1])
    assert sum(not body.get("stream") for body in front.asked) == 2
    remote.close()


def test_accepted_steps_send_no_request_to_the_server(front: Front, server: Served) -> None:
    remote = ChatArbitrage(**RUN | {"router": AlwaysDraft()}, target=address(server))
    remote.invoke(QUESTIONS[0])
    assert not front.asked
    remote.close()


def test_a_draft_with_another_vocabulary_works(server: Served) -> None:
    draft = make("llama", 5, vocabulary=300, num_hidden_layers=2, endless=True, words=True)
    remote = ChatArbitrage(**RUN | {"draft": draft}, target=address(server))
    assert words(remote.invoke(QUESTIONS[0])) == words(local_answer(draft=draft))
    remote.close()


@pytest.mark.parametrize("prompt", ["ids", "text"])
async def test_answers_are_streamed_and_requests_run_concurrently(
    prompt: str, server: Served
) -> None:
    settings = RUN | {"router": AlwaysTarget(), "max_step_tokens": 60, "separator": ("\n\n",)}
    remote = ChatArbitrage(**settings, target=address(server, prompt=prompt))
    pieces = [chunk.text async for chunk in remote.astream(QUESTIONS[0])]
    expected = local_answer(**settings).text
    assert "".join(pieces) == expected
    assert sum(bool(piece) for piece in pieces) > 5
    messages = await remote.abatch(QUESTIONS[:6])
    assert [m.text for m in messages] == [local_answer(q, **settings).text for q in QUESTIONS[:6]]
    remote.close()


def test_stop_strings_and_sampling_parameters_apply(server: Served) -> None:
    remote = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    whole = remote.invoke(QUESTIONS[0]).text
    word = whole.split()[4]
    assert remote.invoke(QUESTIONS[0], stop=[word]).text == whole.partition(word)[0]
    sampling: dict[str, Any] = {"temperature": 2.0, "top_k": 50}
    one, same, other = (remote.invoke(QUESTIONS[0], seed=s, **sampling).text for s in (1, 1, 2))
    assert one == same != other
    remote.close()


@pytest.mark.slow
def test_answers_are_the_same_with_transformers_serve(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 90
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < end
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        target = f"openai:http://127.0.0.1:{port}/v1#{embedded.TARGET}"
        remote = ChatArbitrage(router="embedded:router", target=target, max_tokens=300)
        local = ChatArbitrage(max_tokens=300)
        for problem in embedded.problems(4, seed=41):
            assert words(remote.invoke(problem.question)) == words(local.invoke(problem.question))
        remote.close()
    finally:
        process.terminate()
        process.wait()


def test_the_api_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ChatArbitrage(**MODELS, max_tokens=60)
    server = Served(create_app(llm, ServeSettings(api_key="s3cret")))
    settings = RUN | {"router": AlwaysTarget(), "max_tokens": 8}
    without_key = ChatArbitrage(**settings, target=address(server))
    with pytest.raises(EngineError, match="status 401: missing or wrong API key"):
        without_key.invoke(QUESTIONS[0])
    without_key.close()
    monkeypatch.setenv("MY_KEY", "s3cret")
    remote = ChatArbitrage(**settings, target=address(server, key="MY_KEY"))
    assert remote.invoke(QUESTIONS[0]).text == local_answer(**settings).text
    remote.close()
    server.stop()


# --- server failures ---------------------------------------------------------------------


def test_an_answer_continues_after_the_server_has_restarted(front: Front) -> None:
    settings = RUN | {"router": AlwaysTarget(), "separator": ("\n\n",)}
    settings |= {"max_tokens": 400, "max_step_tokens": 400}
    expected = local_answer(**settings).text
    first = Served(front, grace=0)
    remote = ChatArbitrage(**settings, target=address(first, retries=6, prompt="ids"))
    restarted: list[Served] = []

    def restart() -> None:
        first.stop(at_once=True)
        time.sleep(0.3)
        llm = ChatArbitrage(**MODELS, max_tokens=60)
        front.app = create_app(llm, ServeSettings())
        restarted.append(Served(front, first.port, grace=0))

    killer, text = threading.Thread(target=restart), ""
    for chunk in remote.stream(QUESTIONS[0]):
        text += chunk.text
        if text and not killer.ident:
            killer.start()
    killer.join()
    assert text == expected
    streams = [body for body in front.asked if body.get("stream")]
    assert len(streams) > 1
    assert len(streams[-1]["prompt"]) > len(streams[0]["prompt"])  # continued, not restarted
    remote.close()
    restarted[0].stop()


def test_a_failed_answer_can_be_resumed_from_its_checkpoint(front: Front) -> None:
    server = Served(front, grace=0)
    settings = {**RUN, "target": address(server)}
    graph = create_arbitrage_graph(**settings).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": 500}
    failed = threading.Event()

    def fail(body: dict[str, Any]) -> Any:
        if body.get("stream") and len(front.asked) > 2:
            failed.set()
        return PlainTextResponse("unavailable", 503) if failed.is_set() else None

    front.way = fail
    message = r"127\.0\.0\.1.*failed .*failures: 1, last: .*503.*steps are saved"
    with pytest.raises(EngineError, match=message):
        graph.invoke({"messages": [("user", QUESTIONS[0])]}, config)
    steps = graph.get_state(config).values["steps"]
    assert 0 < len(steps) < len(words(local_answer()))
    front.way = lambda body: None
    state = graph.invoke(None, config)
    assert words(state["messages"][-1]) == words(local_answer())
    server.stop()


def test_transient_errors_are_retried(
    front: Front, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langgraph_arbitrage.remote.server.FIRST_DELAY", 0.05)
    failures = iter([500, 503, 429])

    def fail_at_first(body: dict[str, Any]) -> Any:
        status = next(failures, None)
        return status and JSONResponse({"error": {"message": "later"}}, status)

    front.way = fail_at_first
    remote = ChatArbitrage(**RUN, target=address(server, retries=3))
    assert words(remote.invoke(QUESTIONS[0])) == words(local_answer())
    remote.close()


DEVIATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ignores stop strings": lambda body: body.pop("stop", None) and None,
    "ignores max_tokens": lambda body: body.update(max_tokens=200),
    "generates less": lambda body: body.update(max_tokens=min(3, body["max_tokens"])),
    "rejects token ids": lambda body: (
        JSONResponse({"detail": "prompt must be a string"}, 400)
        if isinstance(body["prompt"], list)
        else None
    ),
}


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_answers_do_not_depend_on_deviations_of_the_server(
    deviation: str, front: Front, server: Served
) -> None:
    front.way = DEVIATIONS[deviation]
    settings = RUN | {"stop": ("and",)}
    remote = ChatArbitrage(**settings, target=address(server))
    for question in QUESTIONS[:2]:
        texts = [remote.invoke(question).text, local_answer(question, **settings).text]
        if deviation == "generates less":  # steps end elsewhere, so the router decides differently
            assert texts[0]
        else:
            assert texts[0] == texts[1]
    remote.close()


def test_cancelling_an_answer_stops_the_server(server: Served, schedulers: list[Any]) -> None:
    remote = ChatArbitrage(
        **RUN | {"router": AlwaysTarget(), "max_tokens": 900, "max_step_tokens": 900},
        target=address(server),
    )
    stream = remote.stream(QUESTIONS[0], stop=["never generated"])
    next(stream)
    stream.close()
    end = time.monotonic() + 3
    while any(s.busy for s in schedulers):
        assert time.monotonic() < end
        time.sleep(0.01)
    remote.close()


@pytest.mark.parametrize(
    ("response", "error_type", "message"),
    [
        (PlainTextResponse("no such path", 404), EngineError, "rejected the request: status 404"),
        (JSONResponse({"error": {"message": "bad key"}}, 401), EngineError, "401: bad key"),
        (JSONResponse({"hello": 1}), EngineError, "did not return a completion"),
        (PlainTextResponse("<html>"), EngineError, "did not return a completion"),
        (JSONResponse({"error": {"message": "oops"}}, 500), EngineError, "status 500: oops"),
        (
            JSONResponse({"error": {"message": "maximum context length is 9"}}, 400),
            ContextLengthError,
            "maximum context length is 9",
        ),
    ],
)
def test_an_unusable_response_is_reported_with_the_address(
    response: Any, error_type: type[Exception], message: str, front: Front, server: Served
) -> None:
    front.way = lambda body: response
    remote = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    with pytest.raises(error_type, match=message) as error:
        remote.invoke(QUESTIONS[0])
    assert f"{server.url} (model target)" in str(error.value)
    remote.close()


def test_a_server_that_does_not_respond_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        target = f"openai:{url}?tokenizer={MODELS['target']}&timeout=0.2&retries=0#m"
        remote = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=target)
        with pytest.raises(EngineError, match=r"no response within timeout=0.2 seconds"):
            remote.invoke(QUESTIONS[0])
        remote.close()


def test_a_tokenizer_that_differs_from_the_servers_is_detected(server: Served) -> None:
    other = make("llama", 5, vocabulary=300)
    remote = ChatArbitrage(
        **RUN | {"router": AlwaysTarget()}, target=address(server, tokenizer=other)
    )
    with pytest.raises(CheckpointError, match="does not use the tokenizer"):
        remote.invoke(QUESTIONS[0])
    remote.close()


def test_draft_confidence_needs_a_server_that_reports_log_probabilities(server: Served) -> None:
    draft = address(server, prompt="text").replace("#target", "#draft")
    remote = ChatArbitrage(
        draft=draft, target=MODELS["target"], router=DraftConfidence(), max_tokens=9
    )
    with pytest.raises(SettingsError, match="the draft's server returns none"):
        remote.invoke(QUESTIONS[0])
    remote.close()


# --- the target's likelihood -------------------------------------------------------------

LIKELIHOOD = RUN | {"router": TargetLikelihood(30.0, signal="sum")}


def test_the_targets_likelihood_equals_that_of_a_local_target(front: Front, server: Served) -> None:
    remote = ChatArbitrage(**LIKELIHOOD, target=address(server))
    for question in QUESTIONS[:2]:
        message, local = remote.invoke(question), local_answer(question, **LIKELIHOOD)
        assert words(message) == words(local)
        steps, others = (m.response_metadata["arbitrage"]["steps"] for m in (message, local))
        assert {step["writer"] for step in steps} == {"draft", "target"}
        scores = [step["score"] for step in steps]
        assert scores == pytest.approx([step["score"] for step in others], abs=1e-3)
    remote.close()


def test_computed_tokens_include_those_that_the_server_computes_again(
    front: Front, server: Served
) -> None:
    """For `prompt_logprobs`, this package's server computes uncached tokens only, vLLM all."""
    accepting = LIKELIHOOD | {"router": TargetLikelihood(1e9)}

    def whole_prompt(body: dict[str, Any]) -> None:
        body.pop("prompt_logprobs_start", None)

    computed = []
    for way in (lambda body: None, whole_prompt):
        front.way = way
        remote = ChatArbitrage(**accepting, target=address(server))
        message = remote.invoke(QUESTIONS[3])
        computed.append(message.response_metadata["arbitrage"]["computed_tokens"]["target"])
        total = message.usage_metadata["total_tokens"]
        remote.close()
    assert computed[0] <= 1.2 * total
    assert computed[1] > 2 * total


def test_a_server_without_prompt_logprobs_is_refused_with_alternatives(
    front: Front, server: Served
) -> None:
    text = ChatArbitrage(**LIKELIHOOD, target=address(server, prompt="text"))
    front.way = lambda body: body.pop("prompt_logprobs", None) and None
    ids = ChatArbitrage(**LIKELIHOOD, target=address(server))
    for remote in (text, ids):
        with pytest.raises(SettingsError, match=r"does not return log-prob.*Use DraftConfidence"):
            remote.invoke(QUESTIONS[0])
        remote.close()


# --- unsupported requests and invalid addresses ------------------------------------------


def test_grammars_and_scores_are_rejected(server: Served) -> None:
    pytest.importorskip("llguidance")
    remote = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    with pytest.raises(GrammarError, match="cannot generate under a grammar"):
        remote.invoke(QUESTIONS[0], response_format={"type": "json_object"})
    judged = ChatArbitrage(**RUN | {"router": Judge()}, target=address(server))
    with pytest.raises(SettingsError, match="cannot score a step"):
        judged.invoke(QUESTIONS[0])
    with pytest.raises(SettingsError, match="A scorer cannot run on a server"):
        acquire(ModelSpec(address(server), kind="token-classification"))
    judged.close()
    remote.close()


def test_the_queue_has_a_limit(server: Served) -> None:
    engine = acquire(ModelSpec(address(server), max_slots=1, max_queue=0))
    handle = engine.submit(GenerateRequest(engine.tokenizer.encode("Ann"), max_tokens=400))
    with pytest.raises(EngineBusyError, match="max_slots=1 running plus max_queue=0 queued"):
        engine.submit(GenerateRequest([5], max_tokens=4))
    with pytest.raises(SettingsError):
        engine.submit(ScoreRequest([5, 6]))
    release(engine)
    with pytest.raises(ArbitrageError):
        handle.result()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("openai:http://host:1/v1", "Use the format openai:http://host:port/v1#model"),
        ("openai:ftp://host/v1#m", "is not a valid server address"),
        ("openai:#m", "is not a valid server address"),
        ("openai:http://host/v1?timeout=0#m", "timeout=0 in"),
        ("openai:http://host/v1?retries=-1#m", "retries=-1 in"),
        ("openai:http://host/v1?prompt=both#m", "prompt=both in"),
        ("openai:http://host/v1?temperature=1#m", "is not a valid option of a server address"),
    ],
)
def test_an_invalid_address_is_rejected(path: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        ChatArbitrage(target=path).invoke("Hi")
    assert message in str(error.value)


def test_a_missing_tokenizer_is_reported() -> None:
    with pytest.raises(CheckpointError, match="The tokenizer of no/such cannot be loaded"):
        ChatArbitrage(target="openai:http://127.0.0.1:9/v1#no/such").invoke("Hi")


def test_a_missing_extra_is_reported_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingExtraError, match="langgraph-arbitrage\\[remote\\]"):
        acquire(ModelSpec("openai:http://127.0.0.1:9/v1#embedded:target"))
