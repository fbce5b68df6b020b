"""Servers differ; imitated here in what their sources say, they make no other answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse

from fronts import RUN, Front, address, local_answer, words
from langgraph_arbitrage import AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.errors import ContextLengthError, EngineError
from serving import Served
from tiny import QUESTIONS

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


STOPS = ("vv", "xx", "yy", "zz", "ww")  # more than some servers take, none in what is written


def own_defaults(body: dict[str, Any], penalty: str = "repetition_penalty") -> None:
    """What is not said is the server's to choose, such as by the model's generation_config."""
    if not {penalty, "min_p"} <= body.keys():
        body |= {"temperature": 9.0, "top_k": 50}
    if body["temperature"] and "top_k" not in body:
        body["top_k"] = 1


def vllm(body: dict[str, Any]) -> Any:
    own_defaults(body)


def old_sglang(body: dict[str, Any]) -> Any:
    """It takes token ids and tells text."""
    own_defaults(body)
    body.pop("return_token_ids", None)


def llamacpp(body: dict[str, Any]) -> Any:
    """Likewise, and has its own name for the penalty."""
    own_defaults(body, "repeat_penalty")
    body.pop("return_token_ids", None)


def tgi(body: dict[str, Any]) -> Any:
    """TGI takes text only, no top_p of 1 and four stop strings."""
    if not isinstance(body["prompt"], str):
        return JSONResponse({"error": "data did not match any variant of untagged enum"}, 422)
    if body.get("top_p", 0.5) >= 1:
        return JSONResponse({"error": "`top_p` must be > 0.0 and < 1.0"}, 422)
    if len(body.get("stop", ())) > 4:
        return JSONResponse({"error": "`stop` supports up to 4 stop sequences"}, 422)
    unknown = {"min_p", "top_k", "repetition_penalty", "repeat_penalty"} & body.keys()
    return JSONResponse({"error": f"unknown fields {unknown}"}, 422) if unknown else None


def llamacpp_back(event: dict[str, Any]) -> None:
    """Log-probabilities in the form of a chat's."""
    for choice in event["choices"]:
        told = choice.pop("logprobs", None) or {"tokens": [], "token_logprobs": []}
        pairs = zip(told["tokens"], told["token_logprobs"], strict=True)
        choice["logprobs"] = {"content": [{"token": t, "logprob": p} for t, p in pairs]}


def tgi_back(event: dict[str, Any]) -> None:
    for choice in event["choices"]:
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "eos_token"


KINDS: dict[str, tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any]]] = {
    "vLLM": (vllm, lambda event: None),
    "old SGLang": (old_sglang, lambda event: None),
    "llama.cpp": (llamacpp, llamacpp_back),
    "TGI": (tgi, tgi_back),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.3, "seed": 4}], ids=["greedy", "drawn"])
def test_answers_do_not_depend_on_the_kind_of_server(
    kind: str, sampling: dict[str, Any], front: Front, server: Served
) -> None:
    settings = RUN | sampling | {"router": AlwaysTarget(), "max_tokens": 30, "stop": STOPS}
    plain = ChatArbitrage(**settings, target=address(server))
    wanted = [words(plain.invoke(question)) for question in QUESTIONS[:2]]
    drawn = wanted[0] != words(local_answer(**settings | {"temperature": 0}))
    assert drawn == bool(sampling)
    front.way, front.back = KINDS[kind]
    far = ChatArbitrage(**settings, target=address(server, timeout=59))
    assert [words(far.invoke(question)) for question in QUESTIONS[:2]] == wanted
    for llm in (plain, far):
        llm.close()


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_server_gave_up_is_gone_on_with(
    reason: str, front: Front, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langgraph_arbitrage.remote.server.FIRST_WAIT", 0.01)
    seen = []

    def gives_up(event: dict[str, Any]) -> None:
        seen.append(event)
        if len(seen) == 4:
            event["choices"][0]["finish_reason"] = reason

    settings = RUN | {"router": AlwaysTarget()}
    front.back = gives_up
    far = ChatArbitrage(**settings, target=address(server, retries=1))
    assert words(far.invoke(QUESTIONS[0])) == words(local_answer(**settings))
    front.back = lambda event: event["choices"][0].update(
        text="", token_ids=[], finish_reason=reason
    )
    with pytest.raises(EngineError, match=f"failed 2 times.*it ended with '{reason}'"):
        far.invoke(QUESTIONS[1])
    far.close()


TOO_LONG = {
    "vLLM": {"error": {"message": "This model's maximum context length is 9 tokens", "code": 400}},
    "SGLang": {"message": "The input is longer than the model's context length", "code": 400},
    "llama.cpp": {"error": {"message": "request (9 tokens) exceeds the available context size"}},
    "TGI": {"error": "`inputs` tokens + `max_new_tokens` must be <= 9", "error_type": "validation"},
}


@pytest.mark.parametrize("kind", TOO_LONG)
def test_a_prompt_that_is_too_long_is_told_as_such(kind: str, front: Front, server: Served) -> None:
    status = 422 if kind == "TGI" else 400
    front.way = lambda body: JSONResponse(TOO_LONG[kind], status) if body.get("stream") else None
    far = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    with pytest.raises(ContextLengthError, match=f"refuses: status {status}"):
        far.invoke(QUESTIONS[0])
    far.close()
