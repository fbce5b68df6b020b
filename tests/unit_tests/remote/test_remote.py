"""A target on a server: the same answers as here, also when the server dies, errs or is odd."""

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
# --- the same as here --------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["auto", "ids", "text"])
def test_the_answers_are_those_of_a_local_target(prompt: str, server: Served) -> None:
    far = ChatArbitrage(**RUN, target=address(server, prompt=prompt))
    for question in QUESTIONS[:2]:
        message, local = far.invoke(question), local_answer(question)
        assert words(message) == words(local)
        assert message.usage_metadata["total_tokens"] == local.usage_metadata["total_tokens"]
        assert message.response_metadata["arbitrage"]["engine"] == {
            "draft": "slot",
            "target": "remote",
        }
    far.close()


def test_each_escalated_step_goes_through_the_network_once(front: Front, server: Served) -> None:
    far = ChatArbitrage(**RUN, target=address(server))
    message = far.invoke(QUESTIONS[0])
    asked = [body for body in front.asked if body.get("stream")]
    assert len(asked) == sum(writer == "target" for writer, _ in words(message)) > 1
    assert len(front.asked) == len(asked) + 2  # it was met once
    far.invoke(QUESTIONS[1])
    assert sum(not body.get("stream") for body in front.asked) == 2
    far.close()


def test_while_the_draft_is_accepted_the_server_is_not_asked(front: Front, server: Served) -> None:
    far = ChatArbitrage(**RUN | {"router": AlwaysDraft()}, target=address(server))
    far.invoke(QUESTIONS[0])
    assert not front.asked
    far.close()


def test_another_vocabulary_crosses_as_text(server: Served) -> None:
    draft = make("llama", 5, vocabulary=300, num_hidden_layers=2, endless=True, words=True)
    far = ChatArbitrage(**RUN | {"draft": draft}, target=address(server))
    assert words(far.invoke(QUESTIONS[0])) == words(local_answer(draft=draft))
    far.close()


@pytest.mark.parametrize("prompt", ["ids", "text"])
async def test_text_streams_as_it_is_written_and_many_ask_at_a_time(
    prompt: str, server: Served
) -> None:
    settings = RUN | {"router": AlwaysTarget(), "max_step_tokens": 60, "separator": ("\n\n",)}
    far = ChatArbitrage(**settings, target=address(server, prompt=prompt))
    pieces = [chunk.text async for chunk in far.astream(QUESTIONS[0])]
    wanted = local_answer(**settings).text
    assert "".join(pieces) == wanted
    assert sum(bool(piece) for piece in pieces) > 5
    found = await far.abatch(QUESTIONS[:6])
    assert [m.text for m in found] == [local_answer(q, **settings).text for q in QUESTIONS[:6]]
    far.close()


def test_stop_strings_and_sampling_are_kept(server: Served) -> None:
    far = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    whole = far.invoke(QUESTIONS[0]).text
    word = whole.split()[4]
    assert far.invoke(QUESTIONS[0], stop=[word]).text == whole.partition(word)[0]
    hot: dict[str, Any] = {"temperature": 2.0, "top_k": 50}
    one, same, other = (far.invoke(QUESTIONS[0], seed=s, **hot).text for s in (1, 1, 2))
    assert one == same != other
    far.close()


@pytest.mark.slow
def test_transformers_own_server_writes_the_same_answers(tmp_path: Path) -> None:
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
        far = ChatArbitrage(router="embedded:router", target=target, max_tokens=300)
        here = ChatArbitrage(max_tokens=300)
        for problem in embedded.problems(4, seed=41):
            assert words(far.invoke(problem.question)) == words(here.invoke(problem.question))
        far.close()
    finally:
        process.terminate()
        process.wait()


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ChatArbitrage(**MODELS, max_tokens=60)
    found = Served(create_app(llm, ServeSettings(api_key="s3cret")))
    settings = RUN | {"router": AlwaysTarget(), "max_tokens": 8}
    refused = ChatArbitrage(**settings, target=address(found))
    with pytest.raises(EngineError, match="status 401: a wrong key, or none"):
        refused.invoke(QUESTIONS[0])
    refused.close()
    monkeypatch.setenv("MY_KEY", "s3cret")
    far = ChatArbitrage(**settings, target=address(found, key="MY_KEY"))
    assert far.invoke(QUESTIONS[0]).text == local_answer(**settings).text
    far.close()
    found.stop()


# --- a server that dies, errs or is odd --------------------------------------------------


def test_a_server_that_dies_and_comes_back_is_waited_for(front: Front) -> None:
    settings = RUN | {"router": AlwaysTarget(), "separator": ("\n\n",)}
    settings |= {"max_tokens": 400, "max_step_tokens": 400}
    wanted = local_answer(**settings).text
    first = Served(front, grace=0)
    far = ChatArbitrage(**settings, target=address(first, retries=6, prompt="ids"))
    restarted: list[Served] = []

    def restart() -> None:
        first.stop(at_once=True)
        time.sleep(0.3)
        llm = ChatArbitrage(**MODELS, max_tokens=60)
        front.app = create_app(llm, ServeSettings())
        restarted.append(Served(front, first.port, grace=0))

    killer, text = threading.Thread(target=restart), ""
    for chunk in far.stream(QUESTIONS[0]):
        text += chunk.text
        if text and not killer.ident:
            killer.start()
    killer.join()
    assert text == wanted
    streams = [body for body in front.asked if body.get("stream")]
    assert len(streams) > 1
    assert len(streams[-1]["prompt"]) > len(streams[0]["prompt"])  # gone on with, not begun anew
    far.close()
    restarted[0].stop()


def test_a_server_that_stays_away_is_named_and_the_answer_so_far_is_kept(front: Front) -> None:
    found = Served(front, grace=0)
    settings = {**RUN, "target": address(found)}
    graph = create_arbitrage_graph(**settings).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": 500}
    dead = threading.Event()

    def fails(body: dict[str, Any]) -> Any:
        if body.get("stream") and len(front.asked) > 4:
            dead.set()
        return PlainTextResponse("gone", 503) if dead.is_set() else None

    front.way = fails
    with pytest.raises(EngineError, match=r"127\.0\.0\.1.*failed 1 times.*503.*is kept"):
        graph.invoke({"messages": [("user", QUESTIONS[0])]}, config)
    steps = graph.get_state(config).values["steps"]
    assert 0 < len(steps) < len(words(local_answer()))
    front.way = lambda body: None
    state = graph.invoke(None, config)
    assert words(state["messages"][-1]) == words(local_answer())
    found.stop()


def test_errors_that_pass_are_waited_out(
    front: Front, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langgraph_arbitrage.remote.server.FIRST_WAIT", 0.05)
    failures = iter([500, 503, 429])

    def fails_at_first(body: dict[str, Any]) -> Any:
        status = next(failures, None)
        return status and JSONResponse({"error": {"message": "later"}}, status)

    front.way = fails_at_first
    far = ChatArbitrage(**RUN, target=address(server, retries=3))
    assert words(far.invoke(QUESTIONS[0])) == words(local_answer())
    far.close()


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "drops stop strings": lambda body: body.pop("stop", None) and None,
    "writes too much": lambda body: body.update(max_tokens=200),
    "cuts short": lambda body: body.update(max_tokens=min(3, body["max_tokens"])),
    "takes no ids": lambda body: (
        JSONResponse({"detail": "prompt must be a string"}, 400)
        if isinstance(body["prompt"], list)
        else None
    ),
}


@pytest.mark.parametrize("oddity", ODD)
def test_an_odd_server_makes_no_other_answers(oddity: str, front: Front, server: Served) -> None:
    front.way = ODD[oddity]
    settings = RUN | {"stop": ("and",)}
    far = ChatArbitrage(**settings, target=address(server))
    for question in QUESTIONS[:2]:
        texts = [far.invoke(question).text, local_answer(question, **settings).text]
        if oddity == "cuts short":  # the steps are other ones: the text is the target's still
            assert texts[0]
        else:
            assert texts[0] == texts[1]
    far.close()


def test_a_cancelled_answer_stops_the_server(server: Served, schedulers: list[Any]) -> None:
    far = ChatArbitrage(
        **RUN | {"router": AlwaysTarget(), "max_tokens": 900, "max_step_tokens": 900},
        target=address(server),
    )
    stream = far.stream(QUESTIONS[0], stop=["never said"])
    next(stream)
    stream.close()
    end = time.monotonic() + 3
    while any(s.busy for s in schedulers):
        assert time.monotonic() < end
        time.sleep(0.01)
    far.close()


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (PlainTextResponse("no such path", 404), EngineError, "refuses: status 404"),
        (JSONResponse({"error": {"message": "bad key"}}, 401), EngineError, "401: bad key"),
        (JSONResponse({"hello": 1}), EngineError, "something else than completions"),
        (PlainTextResponse("<html>"), EngineError, "something else than completions"),
        (JSONResponse({"error": {"message": "oops"}}, 500), EngineError, "status 500: oops"),
        (
            JSONResponse({"error": {"message": "maximum context length is 9"}}, 400),
            ContextLengthError,
            "maximum context length is 9",
        ),
    ],
)
def test_a_server_that_is_none_is_named(
    answer: Any, kind: type[Exception], told: str, front: Front, server: Served
) -> None:
    front.way = lambda body: answer
    far = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    with pytest.raises(kind, match=told) as failure:
        far.invoke(QUESTIONS[0])
    assert f"{server.url} (model target)" in str(failure.value)
    far.close()


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        target = f"openai:{url}?tokenizer={MODELS['target']}&timeout=0.2&retries=0#m"
        far = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=target)
        with pytest.raises(EngineError, match=r"no word within timeout=0.2 seconds"):
            far.invoke(QUESTIONS[0])
        far.close()


def test_another_tokenizer_than_the_servers_is_found_out(server: Served) -> None:
    other = make("llama", 5, vocabulary=300)
    far = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server, tokenizer=other))
    with pytest.raises(CheckpointError, match="has another tokenizer than"):
        far.invoke(QUESTIONS[0])
    far.close()


def test_a_draft_without_log_probabilities_cannot_be_judged_by_them(server: Served) -> None:
    draft = address(server, prompt="text").replace("#target", "#draft")
    far = ChatArbitrage(
        draft=draft, target=MODELS["target"], router=DraftConfidence(), max_tokens=9
    )
    with pytest.raises(SettingsError, match="the server of the draft tells none"):
        far.invoke(QUESTIONS[0])
    far.close()


# --- what a server cannot do -------------------------------------------------------------


def test_what_only_a_local_model_can_do_is_refused_at_once(server: Served) -> None:
    pytest.importorskip("llguidance")
    far = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    with pytest.raises(GrammarError, match="cannot write under a grammar"):
        far.invoke(QUESTIONS[0], response_format={"type": "json_object"})
    judged = ChatArbitrage(**RUN | {"router": Judge()}, target=address(server))
    with pytest.raises(SettingsError, match="cannot score a step"):
        judged.invoke(QUESTIONS[0])
    with pytest.raises(SettingsError, match="a scorer cannot be at"):
        acquire(ModelSpec(address(server), kind="token-classification"))
    judged.close()
    far.close()


def test_the_queue_has_a_limit(server: Served) -> None:
    engine = acquire(ModelSpec(address(server), max_slots=1, max_queue=0))
    ticket = engine.submit(GenerateRequest(engine.tokenizer.encode("Ann"), max_tokens=400))
    with pytest.raises(EngineBusyError, match="max_slots=1 and max_queue=0"):
        engine.submit(GenerateRequest([5], max_tokens=4))
    with pytest.raises(SettingsError):
        engine.submit(ScoreRequest([5, 6]))
    release(engine)
    with pytest.raises(ArbitrageError):
        ticket.result()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("openai:http://host:1/v1", "it has the form openai:http://host:port/v1#model"),
        ("openai:ftp://host/v1#m", "it has the form"),
        ("openai:#m", "it has the form"),
        ("openai:http://host/v1?timeout=0#m", "timeout=0 in"),
        ("openai:http://host/v1?retries=-1#m", "retries=-1 in"),
        ("openai:http://host/v1?prompt=both#m", "prompt=both in"),
        ("openai:http://host/v1?temperature=1#m", "is no setting of an address"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(path: str, told: str) -> None:
    with pytest.raises(SettingsError) as failure:
        ChatArbitrage(target=path).invoke("Hi")
    assert told in str(failure.value)


def test_a_tokenizer_that_is_not_here_is_named() -> None:
    with pytest.raises(CheckpointError, match="no/such has no tokenizer that can be loaded"):
        ChatArbitrage(target="openai:http://127.0.0.1:9/v1#no/such").invoke("Hi")


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingExtraError, match="langgraph-arbitrage\\[remote\\]"):
        acquire(ModelSpec("openai:http://127.0.0.1:9/v1#embedded:target"))
