"""Policies that use a scorer or the target: rules, scores, loading and computed tokens."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import prms
from langgraph_arbitrage import (
    RSD,
    ChatArbitrage,
    Judge,
    LearnedRouter,
    Oracle,
    PastStep,
    Policy,
    StepText,
    StepView,
    create_arbitrage_graph,
)
from langgraph_arbitrage.engine import ScoreOutput
from langgraph_arbitrage.errors import CheckpointError, SettingsError
from langgraph_arbitrage.policies.calibration import Calibration, OperatingPoint
from langgraph_arbitrage.policies.judge import QUESTION, REPLY
from langgraph_arbitrage.scorers import TokenScorer, load_scorer
from tiny import QUESTIONS, loaded, make, pair, prompt, tokenizer

Chat = Callable[..., ChatArbitrage]
DRAFT, TARGET, SCORER = 2, 3, 4  # number of layers, which identifies the model in `fed`
SHORT: dict[str, Any] = {"max_tokens": 60, "max_step_tokens": 8}


def statistics(message: Any) -> dict[str, Any]:
    return message.response_metadata["arbitrage"]


def score_output(*logits: float) -> ScoreOutput:
    return ScoreOutput(list(logits), [], [], computed_tokens=0, cached_tokens=0, seconds=0.0)


@pytest.fixture
def router(tmp_path: Path) -> str:
    """A token classifier whose files name the pair it was trained for."""
    path = Path(shutil.copytree(prms.trl(), tmp_path / "my-router"))
    names = {role: Path(p).name for role, p in pair(endless=True).items()}
    TokenScorer(str(path), role="router", tagged=True, **names).save(path)
    return str(path)


def calibrated(router: str, losses: tuple[float, ...] = (0.0, 0.005, 0.04, 0.09)) -> str:
    """Write a calibration table of four thresholds to the router's folder; return the folder."""
    table = [
        OperatingPoint(t, rate, None, None, None, loss, loss + 0.02)
        for t, rate, loss in zip((0.0, 0.3, 0.6, 1.0), (1.0, 0.5, 0.2, 0.0), losses, strict=True)
    ]
    Calibration(tuple(table), "accuracy", 0.95, 400, 2000, "questions", "d", "t").save(router)
    return router


# --- rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "scores", "escalates"),
    [
        (lambda: LearnedRouter(prms.trl(), 0.5), (0.49, 0.5, 0.51), (False, False, True)),
        (lambda: RSD(prms.trl(), 0.5), (0.49, 0.5, 0.51), (True, False, False)),
        (lambda: Oracle(prms.trl()), (-0.01, 0.0, 0.01), (False, False, True)),
        (lambda: Oracle(prms.trl(), 0.2), (0.19, 0.2, 0.21), (False, False, True)),
        (Judge, (6.99, 7, 7.01), (True, False, False)),
    ],
)
def test_the_rule_just_below_at_and_just_above_the_threshold(
    policy: Callable[[], Policy], scores: tuple[float, ...], escalates: tuple[bool, ...]
) -> None:
    assert tuple(policy().escalates(s) for s in scores) == escalates


@pytest.mark.parametrize(
    ("make_policy", "low", "high"),
    [
        (lambda t: LearnedRouter(prms.trl(), t), 0, 1),
        (lambda t: RSD(prms.trl(), t), 0, 1),
        (lambda t: Oracle(prms.trl(), t), -1, 1),
        (Judge, 0, 9),
    ],
)
def test_a_threshold_outside_its_range_is_rejected(
    make_policy: Callable[[Any], Policy], low: float, high: float
) -> None:
    for value in (low, high):
        assert make_policy(value)
    for value in (low - 0.01, high + 0.01, float("nan"), True):
        with pytest.raises(SettingsError, match=f"must be a number from {low} to {high}, not"):
            make_policy(value)


def test_the_grade_is_the_expected_digit() -> None:
    view = StepView("q", (), 0, StepText("s", 1))
    probabilities = torch.tensor([0.1, 0, 0, 0, 0, 0, 0, 0.2, 0.3, 0.4])
    logits = (probabilities + 1e-30).log().tolist()
    assert Judge().score(view, [score_output(*logits)]) == pytest.approx(
        0.2 * 7 + 0.3 * 8 + 0.4 * 9
    )
    assert Judge().score(view, [score_output(*[3.0] * 10)]) == pytest.approx(4.5)


def test_the_oracle_stores_the_policy_state_of_the_selected_step(tmp_path: Path) -> None:
    policy = Oracle(prms.surprise(tmp_path, "prm"))
    view = StepView("q", (), 0, StepText("a", 1), StepText("b", 1))
    outputs = [ScoreOutput([], [low], [0.1], 0, 0, 0.0) for low in (-0.2, -5.0)]
    scores = [policy.scorer.read((), output).value for output in outputs]
    decision = policy.decide(view, outputs)
    assert decision.score == pytest.approx(scores[1] - scores[0])
    assert decision.policy_state == ((-5.0,) if decision.escalate else (-0.2,))
    swapped = policy.decide(view, outputs[::-1])
    assert swapped.escalate is not decision.escalate
    assert len(policy.scorer_requests(view)) == 2
    same = StepView("q", (), 0, StepText("a", 1), StepText("a", 2))
    assert len(policy.scorer_requests(same)) == 1
    assert policy.score(same, outputs[:1]) == 0


# --- in the loop -----------------------------------------------------------------------------

POLICIES: dict[str, Callable[[], Policy]] = {
    "router": lambda: LearnedRouter(prms.trl(), 0.5),
    "rsd": lambda: RSD(prms.trl(), 0.5),
    "oracle": lambda: Oracle(prms.trl()),
    "judge": lambda: Judge(4.5),
}


@pytest.mark.parametrize("name", POLICIES)
async def test_the_loop_applies_the_rule_and_counts_computed_tokens(
    name: str, chat: Chat, fed: Counter[int]
) -> None:
    policy = POLICIES[name]()
    llm = chat(router=policy, **SHORT)
    llm.invoke("Warm up.")
    fed.clear()
    message = llm.invoke(QUESTIONS[0])
    stats = statistics(message)
    steps = stats["steps"]
    assert all((s["writer"] == "target") == policy.escalates(s["score"]) for s in steps)
    assert {s["writer"] for s in steps} == {"draft", "target"}
    computed = stats["computed_tokens"]
    assert (computed["draft"], computed["target"]) == (fed[DRAFT], fed[TARGET])
    if name == "oracle":  # the two steps are scored in one batch, which includes padding
        assert fed[SCORER] / 2 < computed["router"] <= fed[SCORER]
        assert stats["discarded_tokens"] > sum(s["tokens"] for s in steps) / 2
    else:
        assert computed["router"] == fed[SCORER]
    again = await llm.ainvoke(QUESTIONS[0])
    assert [s["score"] for s in statistics(again)["steps"]] == pytest.approx(
        [s["score"] for s in steps], abs=1e-4
    )
    graph = create_arbitrage_graph(
        **pair(endless=True), router=policy, separator=" ", min_step_tokens=1, **SHORT
    )
    start: Any = {"messages": [("user", QUESTIONS[0])]}
    state = await graph.compile().ainvoke(start, {"recursion_limit": 999})
    assert state["messages"][-1].text == message.text == again.text


def test_a_router_computes_each_token_once(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=LearnedRouter(prms.trl(), 1.0), max_steps=30, max_step_tokens=5)
    llm.invoke("Warm up.")
    fed.clear()
    graph = create_arbitrage_graph(llm._models).compile()
    state = graph.invoke({"messages": [("user", QUESTIONS[5])]}, {"recursion_limit": 999})
    *past, last = [PastStep("draft", step["text"], 1) for step in state["steps"]]
    call = llm._models.scorer_call(
        llm.policy.scorer.request(QUESTIONS[5], past, last.text), QUESTIONS[5]
    )
    assert len(past) == 29
    assert fed[SCORER] == len(call.request.ids)


def test_the_scores_of_an_answer_are_those_of_the_prm(chat: Chat) -> None:
    path = prms.qwen_prm()
    stats = statistics(chat(router=RSD(path, 0.0), **SHORT).invoke(QUESTIONS[0]))
    scorer, history = load_scorer(path), []
    llm = chat(**SHORT)
    for step in stats["steps"][:-1]:
        call = llm._models.scorer_call(
            scorer.request(QUESTIONS[0], history, step["text"]), QUESTIONS[0]
        )
        engine, request = call.engine, call.request
        value = scorer.read(history, engine.submit(request).result()).value
        assert step["score"] == pytest.approx(value, abs=1e-4)
        history.append(PastStep("draft", step["text"], 1))


def test_the_judges_grade_equals_that_of_a_plain_forward(chat: Chat, fed: Counter[int]) -> None:
    llm = chat(router=Judge(0), **SHORT)
    llm.invoke("Warm up.")
    fed.clear()
    graph = create_arbitrage_graph(llm._models).compile()
    state = graph.invoke({"messages": [("user", QUESTIONS[5])]}, {"recursion_limit": 999})
    computed, ids = fed.copy(), prompt(QUESTIONS[5])
    hf = tokenizer()
    turn = hf.encode(f"<end>\n<user>{QUESTION}<end>\n<assistant>")
    opening = hf.encode(REPLY)
    digits = hf.convert_tokens_to_ids(list("0123456789"))
    target = loaded(pair(endless=True)["target"])
    for step in state["steps"]:
        ids = ids + step["ids"]
        with torch.no_grad():
            logits = target(torch.tensor([ids + turn + opening])).logits[0, -1, digits]
        grade = (logits.softmax(-1) * torch.arange(10)).sum().item()
        assert step["score"] == pytest.approx(grade, abs=1e-3)
    # The target computes the prompt and each step once, and the question after every step.
    assert computed[TARGET] == len(ids) + len(state["steps"]) * len(turn + opening)
    assert set(computed) == {DRAFT, TARGET}


def test_the_judge_grades_steps_up_to_the_end_of_the_targets_context(chat: Chat) -> None:
    """The question to the target does not fit; it then leaves out the first steps."""
    models = {
        "draft": make("llama", num_hidden_layers=2, endless=True, words=True),
        "target": make("llama", seed=1, endless=True, words=True, max_position_embeddings=400),
    }
    llm = chat(**models, router=Judge(0), separator=(".", "\n"), max_tokens=900, max_steps=900)
    stats = statistics(llm.invoke(QUESTIONS[0]))
    assert stats["finish_reason"] == "context"
    assert all(0 <= s["score"] <= 9 for s in stats["steps"])
    assert sum(s["tokens"] for s in stats["steps"]) > 400 - 80


def test_the_judge_grades_steps_of_a_draft_with_another_vocabulary(chat: Chat) -> None:
    models = {
        "draft": make("llama", num_hidden_layers=2, vocabulary=330, endless=True, words=True),
        "target": make("llama", seed=1, endless=True, words=True),
    }
    llm = chat(**models, router=Judge(0), separator=(".", "\n"), min_step_tokens=1, max_tokens=40)
    steps = statistics(llm.invoke(QUESTIONS[0]))["steps"]
    assert all(0 <= s["score"] <= 9 for s in steps)


@pytest.mark.parametrize("name", POLICIES)
def test_only_the_models_that_the_policy_needs_are_loaded(
    name: str, chat: Chat, loads: list[str], tmp_path: Path
) -> None:
    models = {
        role: str(shutil.copytree(path, tmp_path / role))
        for role, path in pair(endless=True).items()
    }
    scorer = str(shutil.copytree(prms.trl(), tmp_path / "scorer"))
    policy: Policy = {
        "router": lambda: LearnedRouter(scorer, 1.0),
        "rsd": lambda: RSD(scorer, 0.0),
        "oracle": lambda: Oracle(scorer),
        "judge": Judge,
    }[name]()
    chat(**models, router=policy, **SHORT).invoke(QUESTIONS[0])
    expected = {models["draft"]}
    expected |= {scorer} if name != "judge" else set()
    expected |= {models["target"]} if name in ("oracle", "judge") else set()
    assert set(loads) == expected


# --- a router's pair and calibration ------------------------------------------------------------


@pytest.mark.parametrize("method", ["invoke", "ainvoke"])
async def test_a_router_of_another_pair_is_rejected_before_a_model_loads(
    method: str, chat: Chat, router: str, loads: list[str]
) -> None:
    draft = make("llama", seed=9, num_hidden_layers=2)
    llm = chat(draft=draft, target=pair(endless=True)["target"], router=router)
    message = rf"my-router was trained for the draft {Path(pair(endless=True)['draft']).name} and"
    with pytest.raises(
        SettingsError, match=rf"{message} .*not for {Path(draft).name} and .*any_pair"
    ):
        await llm.ainvoke("Hi") if method == "ainvoke" else llm.invoke("Hi")
    assert not loads
    copies = chat(draft=draft, target=llm.target, router=LearnedRouter(router, any_pair=True))
    assert copies.invoke("Hi", max_tokens=3).text is not None


def test_a_router_accepts_its_pair_by_folder_or_hub_id(router: str) -> None:
    for names in (("org/base", "base"), ("base", "org/base"), ("org/base", "org/base")):
        scorer = TokenScorer(router, role="router", draft=names[0], target=names[0])
        scorer.save(Path(router))
        LearnedRouter(router).validate_pair(names[1], names[1])
    scorer = TokenScorer(router, role="router", draft="org/base", target="org/base")
    scorer.save(Path(router))
    with pytest.raises(SettingsError, match="trained for the draft org/base"):
        LearnedRouter(router).validate_pair("other/base", "org/base")


def test_a_checkpoint_name_selects_a_learned_router(chat: Chat, router: str) -> None:
    llm = chat(router=router, **SHORT)
    assert llm.policy == LearnedRouter(router, 0.5)  # not calibrated
    steps = statistics(llm.invoke(QUESTIONS[0]))["steps"]
    assert all((s["writer"] == "target") == (s["score"] > 0.5) for s in steps)
    assert chat(router=Path(router)).policy == llm.policy
    assert statistics(llm.invoke(QUESTIONS[0], threshold=1))["escalation_rate"] == 0
    assert statistics(llm.invoke(QUESTIONS[0], threshold=0))["escalation_rate"] == 1


def test_a_calibrated_router_selects_its_threshold(chat: Chat, router: str) -> None:
    calibrated(router)
    assert chat(router=router).policy == LearnedRouter(router, 0.3)  # measured loss ≤ 0.01
    for rule, threshold in (
        ("rate:0.2", 0.6),
        ("rate:0.35", 0.45),
        ("loss:0.03", 0.3),
        ("loss:1", 1.0),
        (0.77, 0.77),
        ("0.77", 0.77),
    ):
        llm = chat(router=router, threshold=rule)
        assert llm.policy.threshold == pytest.approx(threshold)
        if isinstance(rule, str) and ":" in rule:
            assert LearnedRouter(router, rule) == llm.policy
    llm = chat(router=router, **SHORT)
    assert statistics(llm.invoke(QUESTIONS[0], threshold="loss:1"))["escalation_rate"] == 0
    assert statistics(llm.invoke(QUESTIONS[0], threshold="rate:1"))["escalation_rate"] == 1
    with pytest.warns(UserWarning, match="'rate:1' was calibrated with greedy decoding"):
        llm.invoke(QUESTIONS[0], threshold="rate:1", temperature=0.7, seed=1)
    assert LearnedRouter(calibrated(router, (0.02, 0.03, 0.04, 0.05))).threshold == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("rate:2", "invalid threshold 'rate:2'"),
        ("speed:3", "invalid threshold 'speed:3'"),
        ("loss:0.001", r"no threshold of .* loss of at most 0\.001 .*400 questions"),
    ],
)
def test_a_rule_without_a_threshold_is_rejected(rule: str, message: str, router: str) -> None:
    calibrated(router)
    with pytest.raises(SettingsError, match=message):
        ChatArbitrage(**pair(endless=True), router=router, threshold=rule)


def test_without_a_calibration_the_error_contains_the_command(router: str) -> None:
    with pytest.raises(SettingsError, match=r"has no calibration.json.*`arbitrage calibrate .*my-"):
        ChatArbitrage(**pair(endless=True), router=router, threshold="rate:0.3")
    with pytest.raises(SettingsError, match="TargetLikelihood does not use one"):
        ChatArbitrage(**pair(endless=True), threshold="rate:0.3")
    (Path(router) / "calibration.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"calibration.json is not a valid calibration table"):
        ChatArbitrage(**pair(endless=True), router=router)


def test_an_invalid_router_is_rejected_at_construction() -> None:
    for router, message in (
        (prms.qwen_prm(), "is a PRM, not a router"),
        (prms.rlhflow(), "cannot be detected; the supported kinds are"),
        (prms.trl(3), "has 3 labels"),
        ("no/such-router", "no/such-router is not a local folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ChatArbitrage(**pair(), router=router)


@pytest.mark.parametrize("method", ["invoke", "ainvoke"])
async def test_an_invalid_prm_is_rejected_before_a_model_loads(
    method: str, chat: Chat, loads: list[str]
) -> None:
    for policy in (RSD(prms.rlhflow()), Oracle(prms.rlhflow())):
        llm = chat(router=policy)
        with pytest.raises(CheckpointError, match="cannot be detected"):
            await llm.ainvoke("Hi") if method == "ainvoke" else llm.invoke("Hi")
    assert not loads
