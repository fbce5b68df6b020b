"""Answers do not depend on the server software. A proxy imitates each server's behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.responses import JSONResponse

from fronts import MODELS, RUN, Front, address, local_answer, words
from langgraph_arbitrage import AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.engine.requests import GenerateRequest, SamplingParams
from langgraph_arbitrage.errors import (
    ContextLengthError,
    EngineError,
    MessageError,
    SettingsError,
)
from langgraph_arbitrage.models.generation_config import NO_RULES, TokenRules
from langgraph_arbitrage.remote.protocol import completion_options
from serving import Served
from tiny import QUESTIONS

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

STOPS = ("vv", "xx", "yy", "zz", "ww")  # more than some servers accept; none is ever generated


def apply_defaults(body: dict[str, Any], penalty: str = "repetition_penalty") -> None:
    """Apply the server's own sampling defaults to fields that are not sent."""
    if not {penalty, "min_p"} <= body.keys():
        body |= {"temperature": 9.0, "top_k": 50}
    if body["temperature"] and "top_k" not in body:
        body["top_k"] = 1


def vllm(body: dict[str, Any]) -> Any:
    apply_defaults(body)


def old_sglang(body: dict[str, Any]) -> Any:
    """Old SGLang accepts token ids and returns text."""
    apply_defaults(body)
    body.pop("return_token_ids", None)


def llamacpp(body: dict[str, Any]) -> Any:
    """llama.cpp accepts token ids, returns text, and has another name for the penalty."""
    apply_defaults(body, "repeat_penalty")
    body.pop("return_token_ids", None)


def tgi(body: dict[str, Any]) -> Any:
    """TGI accepts only text, no top_p of 1, and up to four stop strings."""
    if not isinstance(body["prompt"], str):
        return JSONResponse({"error": "data did not match any variant of untagged enum"}, 422)
    if body.get("top_p", 0.5) >= 1:
        return JSONResponse({"error": "`top_p` must be > 0.0 and < 1.0"}, 422)
    if len(body.get("stop", ())) > 4:
        return JSONResponse({"error": "`stop` supports up to 4 stop sequences"}, 422)
    unknown = {"min_p", "top_k", "repetition_penalty", "repeat_penalty"} & body.keys()
    return JSONResponse({"error": f"unknown fields {unknown}"}, 422) if unknown else None


def llamacpp_event(event: dict[str, Any]) -> None:
    """llama.cpp returns log-probabilities in the format of chat completions."""
    for choice in event["choices"]:
        logprobs = choice.pop("logprobs", None) or {"tokens": [], "token_logprobs": []}
        pairs = zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
        choice["logprobs"] = {"content": [{"token": t, "logprob": p} for t, p in pairs]}


def tgi_event(event: dict[str, Any]) -> None:
    for choice in event["choices"]:
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "eos_token"


KINDS: dict[str, tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any]]] = {
    "vLLM": (vllm, lambda event: None),
    "old SGLang": (old_sglang, lambda event: None),
    "llama.cpp": (llamacpp, llamacpp_event),
    "TGI": (tgi, tgi_event),
}


SAMPLED = {"temperature": 0.3, "seed": 4}


@pytest.mark.parametrize(
    ("kind", "sampling"), [*((kind, {}) for kind in KINDS), ("vLLM", SAMPLED), ("TGI", SAMPLED)]
)
def test_answers_do_not_depend_on_the_server_software(
    kind: str, sampling: dict[str, Any], front: Front, server: Served
) -> None:
    settings = RUN | sampling | {"router": AlwaysTarget(), "max_tokens": 30, "stop": STOPS}
    plain = ChatArbitrage(**settings, target=address(server))
    expected = [words(plain.invoke(question)) for question in QUESTIONS[:2]]
    is_sampled = expected[0] != words(local_answer(**settings | {"temperature": 0}))
    assert is_sampled == bool(sampling)
    front.way, front.back = KINDS[kind]
    remote = ChatArbitrage(**settings, target=address(server, timeout=59))
    assert [words(remote.invoke(question)) for question in QUESTIONS[:2]] == expected
    for llm in (plain, remote):
        llm.close()


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_continues_after_the_server_aborted_it(
    reason: str, front: Front, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langgraph_arbitrage.remote.server.FIRST_DELAY", 0.01)
    seen = []

    def abort(event: dict[str, Any]) -> None:
        seen.append(event)
        if len(seen) == 4:
            event["choices"][0]["finish_reason"] = reason

    settings = RUN | {"router": AlwaysTarget()}
    front.back = abort
    remote = ChatArbitrage(**settings, target=address(server, retries=1))
    assert words(remote.invoke(QUESTIONS[0])) == words(local_answer(**settings))
    front.back = lambda event: event["choices"][0].update(
        text="", token_ids=[], finish_reason=reason
    )
    with pytest.raises(EngineError, match=f"failures: 2, .*finish reason '{reason}'"):
        remote.invoke(QUESTIONS[1])
    remote.close()


TOO_LONG = {
    "vLLM": {"error": {"message": "This model's maximum context length is 9 tokens", "code": 400}},
    "SGLang": {"message": "The input is longer than the model's context length", "code": 400},
    "llama.cpp": {"error": {"message": "request (9 tokens) exceeds the available context size"}},
    "TGI": {"error": "`inputs` tokens + `max_new_tokens` must be <= 9", "error_type": "validation"},
}


@pytest.mark.parametrize("kind", TOO_LONG)
def test_a_prompt_that_is_too_long_is_recognized(kind: str, front: Front, server: Served) -> None:
    status = 422 if kind == "TGI" else 400
    front.way = lambda body: JSONResponse(TOO_LONG[kind], status) if body.get("stream") else None
    remote = ChatArbitrage(**RUN | {"router": AlwaysTarget()}, target=address(server))
    with pytest.raises(ContextLengthError, match=f"rejected the request: status {status}"):
        remote.invoke(QUESTIONS[0])
    remote.close()


def test_a_special_token_in_a_text_is_never_sent_as_part_of_a_text_prompt(
    front: Front, server: Served
) -> None:
    settings = RUN | {"router": AlwaysTarget()}
    local = ChatArbitrage(**settings, target=MODELS["target"])
    name = min(local._models.tokenizer("target").control_tokens._names)
    with_ids = ChatArbitrage(**settings, target=address(server))
    forged = f"{QUESTIONS[0]} {name}"
    assert words(with_ids.invoke(forged)) == words(local.invoke(forged))
    as_text = ChatArbitrage(**settings, target=address(server, prompt="text"))
    with pytest.raises(MessageError, match=r"prompts as text only.*special_tokens_in_text"):
        as_text.invoke(forged)
    assert as_text.invoke(QUESTIONS[0]).content
    assert as_text.invoke(forged, special_tokens_in_text="allow").content
    for llm in (local, with_ids, as_text):
        llm.close()


def request(rules: TokenRules = NO_RULES, **sampling: Any) -> GenerateRequest:
    return GenerateRequest([1], max_tokens=4, sampling=SamplingParams(rules=rules, **sampling))


def test_sampling_settings_are_sent_or_refused() -> None:
    sampled = request(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1)
    sent = completion_options(sampled, 100, token_ids=False, extra_fields=True)
    assert (sent["temperature"], sent["top_p"]) == (0.5, 0.9)
    assert (sent["extra_body"]["top_k"], sent["extra_body"]["min_p"]) == (7, 0.1)
    penalized = request(replace(NO_RULES, repetition_penalty=1.2))
    sent = completion_options(penalized, 100, token_ids=False, extra_fields=True)
    assert sent["extra_body"]["repetition_penalty"] == 1.2  # vLLM, SGLang
    assert sent["extra_body"]["repeat_penalty"] == 1.2  # llama.cpp
    for unknown, message in [
        (sampled, r"top_k=7, min_p=0\.1"),
        (penalized, r"repetition_penalty=1\.2"),
    ]:
        with pytest.raises(SettingsError, match=message):
            completion_options(unknown, 100, token_ids=False, extra_fields=False)
    only_local = request(replace(NO_RULES, no_repeat_ngram_size=3))
    with pytest.raises(SettingsError, match=r"no_repeat_ngram_size=3.*generation_config"):
        completion_options(only_local, 100, token_ids=False, extra_fields=True)
    # Greedy decoding ignores both.
    completion_options(request(top_k=7, min_p=0.1), 100, token_ids=False, extra_fields=False)
