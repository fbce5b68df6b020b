"""TargetLikelihood: the target reads each draft step once, and an escalation continues from it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langgraph_arbitrage import (
    AlwaysDraft,
    AlwaysTarget,
    Cascade,
    ChatArbitrage,
    DraftConfidence,
    Judge,
    TargetLikelihood,
    create_arbitrage_graph,
)
from langgraph_arbitrage.errors import SettingsError
from runs import ASK, SETTINGS, STRICT, same_answer, thread
from tiny import QUESTIONS, loaded, make, prompt

Chat = Callable[..., ChatArbitrage]
DRAFT, TARGET = 2, 3  # layers
ALL, NONE = TargetLikelihood(0), TargetLikelihood(1e9)
MIXED = TargetLikelihood(18.0, signal="sum")
OTHER_DRAFT = {
    "draft": make("llama", num_hidden_layers=2, vocabulary=330, endless=True, words=True)
}


def figures(message: Any) -> dict[str, Any]:
    return message.response_metadata["arbitrage"]


@pytest.mark.parametrize(
    "draft",
    [{}, OTHER_DRAFT, {"draft": SETTINGS["target"]}],
    ids=["one vocabulary", "two", "the target itself"],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_escalating_every_step_writes_what_the_target_writes_alone(
    temperature: float, draft: dict[str, str], chat: Chat
) -> None:
    settings = {**SETTINGS, **draft, "temperature": temperature, "top_k": 3, "seed": 2}
    alone, llm = (chat(**{**settings, "router": r}) for r in (AlwaysTarget(), ALL))
    messages = [llm.invoke(q) for q in QUESTIONS[:2]]
    assert [m.text for m in messages] == [alone.invoke(q).text for q in QUESTIONS[:2]]
    assert {s["writer"] for m in messages for s in figures(m)["steps"]} == {"target"}
    if draft.get("draft") == SETTINGS["target"] and not temperature:
        for message in messages:
            assert figures(message)["accepted_draft_tokens"] == figures(message)["target_tokens"]


def test_accepting_every_step_writes_what_the_draft_writes_alone(chat: Chat) -> None:
    alone, llm = (chat(**{**SETTINGS, "router": r}) for r in (AlwaysDraft(), NONE))
    for question in QUESTIONS[:2]:
        assert llm.invoke(question).text == alone.invoke(question).text


def plain_logprobs(ids: list[int], step: list[int]) -> torch.Tensor:
    """Return the target's log-probabilities [n, V] at the n tokens of a step."""
    with torch.no_grad():
        logits = loaded(SETTINGS["target"])(torch.tensor([[*ids, *step]])).logits
    return logits[0, len(ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("k", [1, 4, 40])
def test_a_step_is_accepted_iff_its_tokens_are_among_the_k_most_probable(
    k: int, chat: Chat
) -> None:
    graph = create_arbitrage_graph(**{**SETTINGS, "router": TargetLikelihood(k)}).compile()
    ids = prompt(QUESTIONS[0])
    for update in graph.stream(ASK, {"recursion_limit": 500}, stream_mode="updates"):
        if draft := update.get("draft"):
            step = draft["draft_step"]["ids"]
        if route := update.get("route"):
            best = plain_logprobs(ids, step).topk(k).indices
            expected = all(token in row for token, row in zip(step, best.tolist(), strict=True))
            assert route["decision"]["escalate"] == (not expected)
        if commit := update.get("commit"):
            ids = ids + commit["steps"][0]["ids"]


def test_the_score_is_the_negative_log_likelihood_under_the_target(chat: Chat) -> None:
    graph = create_arbitrage_graph(**{**SETTINGS, "router": MIXED}).compile()
    result = graph.invoke(ASK, {"recursion_limit": 500})
    ids, accepted = prompt(QUESTIONS[0]), 0
    for step in result["steps"]:
        if step["writer"] == "draft":
            logprobs = plain_logprobs(ids, step["ids"])
            nll = -sum(float(logprobs[i, t]) for i, t in enumerate(step["ids"]))
            assert step["score"] == pytest.approx(nll, abs=1e-2)
            accepted += 1
        assert (step["writer"] == "target") == (step["score"] > MIXED.threshold)
        ids = ids + step["ids"]
    assert 0 < accepted < len(result["steps"])


def test_two_vocabularies_score_the_text_in_the_targets_tokens(chat: Chat) -> None:
    graph = create_arbitrage_graph(**{**SETTINGS, **OTHER_DRAFT, "router": NONE}).compile()
    steps = graph.invoke(ASK, {"recursion_limit": 500})["steps"]
    tokenizer = chat(**SETTINGS)._models.tokenizer("target")
    ids = prompt(QUESTIONS[0])
    for step in steps:
        text = tokenizer.encode(step["text"])
        probs, token = plain_logprobs(ids, text).exp(), torch.tensor(text)[:, None]
        own = probs.gather(1, token)
        score = ((probs > own).sum(-1, keepdim=True) + 1 - own).max()
        assert step["score"] == pytest.approx(float(score), abs=1e-2)
        ids = ids + text


@pytest.mark.parametrize("policy", [ALL, NONE, MIXED])
def test_the_target_computes_each_token_once(
    policy: TargetLikelihood, chat: Chat, fed: Counter[int]
) -> None:
    llm = chat(**{**SETTINGS, "router": policy})
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[0])
    stats = figures(message)
    assert stats["computed_tokens"] == {"draft": fed[DRAFT], "target": fed[TARGET], "router": 0}
    # Each escalation adds the draft tokens that the target has rejected.
    assert fed[TARGET] <= message.usage_metadata["total_tokens"] + stats["discarded_tokens"]


@pytest.mark.parametrize("node", ["route", "regenerate", "commit"])
def test_a_resumed_thread_continues_with_the_verified_tokens(node: str) -> None:
    settings = {**SETTINGS, "router": MIXED}
    expected = create_arbitrage_graph(**settings).compile().invoke(ASK, {"recursion_limit": 500})
    graph = create_arbitrage_graph(**settings).compile(
        checkpointer=InMemorySaver(serde=STRICT), interrupt_before=[node]
    )
    found = graph.invoke(ASK, thread())
    for _ in range(100):
        if found.get("finish_reason"):
            break
        found = graph.invoke(None, thread())
    assert same_answer(found, expected)


def test_a_human_can_escalate_a_step_that_the_policy_accepts() -> None:
    settings = {**SETTINGS, "router": NONE, "approve": "below:1"}
    graph = create_arbitrage_graph(**settings).compile(checkpointer=InMemorySaver(serde=STRICT))
    found = graph.invoke(ASK, thread())
    while "__interrupt__" in found:
        found = graph.invoke(Command(resume="escalate"), thread())
    alone = create_arbitrage_graph(**{**SETTINGS, "router": AlwaysTarget()}).compile()
    expected = alone.invoke(ASK, {"recursion_limit": 500})
    assert found["messages"][-1].text == expected["messages"][-1].text


def test_an_escalated_step_streams_completely(chat: Chat) -> None:
    llm = chat(**{**SETTINGS, "router": ALL})
    graph = create_arbitrage_graph(**{**SETTINGS, "router": ALL}).compile()
    deltas = [
        event["text"]
        for event in graph.stream(ASK, {"recursion_limit": 500}, stream_mode="custom")
        if event["type"] == "target_delta"
    ]
    text = llm.invoke(QUESTIONS[0]).text
    assert "".join(deltas) == text
    assert "".join(chunk.text for chunk in llm.stream(QUESTIONS[0])) == text


def test_structured_output_is_scored_and_escalated(chat: Chat) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    llm = chat(router=ALL, max_tokens=60).with_structured_output(schema, include_raw=True)
    found = llm.invoke(QUESTIONS[0])
    assert isinstance(found["parsed"]["n"], int)
    assert {s["writer"] for s in figures(found["raw"])["steps"]} == {"target"}


# --- Cascade -----------------------------------------------------------------------------


def test_a_cascade_runs_the_target_only_on_unclear_steps(chat: Chat, fed: Counter[int]) -> None:
    accepting = chat(**{**SETTINGS, "router": DraftConfidence(0.0, signal="product")})
    steps = figures(accepting.invoke(QUESTIONS[0]))["steps"]
    median = sorted(step["score"] for step in steps)[len(steps) // 2]
    first = DraftConfidence(median, signal="product")
    cascade = chat(**{**SETTINGS, "router": Cascade(NONE, first=first)})
    scores = [step["score"] for step in figures(cascade.invoke(QUESTIONS[0]))["steps"]]
    unclear = [score > 1 for score in scores]  # ranks; probabilities are at most 1
    assert unclear == [step["score"] < median for step in steps]
    clear = chat(**{**SETTINGS, "router": Cascade(ALL, first=DraftConfidence(0.0))})
    clear.invoke("Warm up.")
    fed.clear()
    clear.invoke(QUESTIONS[1])
    assert set(fed) == {DRAFT}


def test_the_threshold_of_a_cascade_is_that_of_the_wrapped_policy() -> None:
    cascade = Cascade(TargetLikelihood(2), first=DraftConfidence()).with_threshold(3.5)
    assert (cascade.policy, cascade.first) == (TargetLikelihood(3.5), DraftConfidence())


@pytest.mark.parametrize("first", [AlwaysTarget(), Judge(), TargetLikelihood()])
def test_a_cascade_starts_with_a_policy_that_runs_no_model(first: Any) -> None:
    with pytest.raises(SettingsError, match=r"first=.*must decide by the draft's step alone"):
        Cascade(TargetLikelihood(), first=first)


# --- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, float("nan"), "10", True])
def test_an_invalid_threshold_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"must be a number of at least 0, not"):
        TargetLikelihood(value)


def test_each_signal_has_a_default_threshold() -> None:
    assert TargetLikelihood().threshold == 3
    assert TargetLikelihood(signal="sum").threshold == 12
    with pytest.raises(SettingsError, match="one of 'rank', 'sum', not 'mean'"):
        TargetLikelihood(signal="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("signal", "score"), [("mean", (0.5 + 0.1) / 2), ("lowest", 0.1), ("product", 0.05)]
)
def test_a_confidence_signal_combines_the_tokens(signal: Any, score: float) -> None:
    from math import log

    from langgraph_arbitrage import StepText, StepView

    view = StepView("q", (), 0, StepText("ab", 2, (log(0.5), log(0.1))))
    assert DraftConfidence(signal=signal).score(view, ()) == pytest.approx(score)


def test_an_unknown_confidence_signal_names_the_allowed_ones() -> None:
    with pytest.raises(SettingsError, match=r"one of 'mean', 'lowest', 'product', not 'max'"):
        DraftConfidence(signal="max")  # type: ignore[arg-type]
