"""A bad setting is refused where it is set, with its name, its value and what is allowed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage import (
    AlwaysDraft,
    ArbitrageSettings,
    ChatArbitrage,
    Context,
    DraftConfidence,
    LearnedRouter,
    Random,
    TargetLikelihood,
    create_arbitrage_graph,
    embedded,
)
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.calibration import Calibration
from tiny import QUESTIONS, pair

Chat = Callable[..., ChatArbitrage]
LIMITS = [
    ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
    ({"max_tokens": -3}, "max_tokens must be at least 1, not -3"),
    ({"max_steps": 0}, "max_steps must be at least 1, not 0"),
    ({"max_step_tokens": 0}, "max_step_tokens must be at least 1, not 0"),
    ({"temperature": -0.1}, r"temperature must be 0 or more, not -0\.1"),
    ({"temperature": float("nan")}, "temperature must be 0 or more, not nan"),
    ({"temperature": float("inf")}, "temperature must be 0 or more, not inf"),
    ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
    ({"top_p": 1.5}, r"top_p must be above 0 and at most 1, not 1\.5"),
    ({"top_p": float("nan")}, "top_p must be above 0 and at most 1, not nan"),
    ({"top_k": -1}, r"top_k must be 0 \(all tokens\) or more, not -1"),
    ({"threshold": -0.1}, r"threshold of \w+ must be a number of at least 0, not -0\.1"),
    ({"threshold": float("nan")}, r"threshold of \w+ must be a number of at least 0, not nan"),
    ({"threshold": "much"}, "invalid threshold 'much': set a number"),
    ({"first_steps": -1}, "first_steps must be 0 or more, not -1"),
    ({"max_target_share": 1.1}, r"max_target_share must be a number from 0 to 1, not 1\.1"),
    ({"max_target_share": float("nan")}, "max_target_share must be a number from 0 to 1, not nan"),
    ({"max_target_tokens": -1}, "max_target_tokens must be above 0, or None for no limit, not -1"),
    ({"stop": [""]}, "stop string must not be empty"),
    ({"stop": ["x", ""]}, "stop string must not be empty"),
    ({"timeout": 0}, "timeout must be above 0 seconds, or None for no limit, not 0"),
    ({"timeout": float("nan")}, "timeout must be above 0 seconds, or None for no limit, not nan"),
]
SETTINGS = [
    ({"separator": ""}, "separator must be one or more non-empty strings"),
    ({"separator": []}, "separator must be one or more non-empty strings"),
    ({"separator": ["\n", ""]}, "separator must be one or more non-empty strings"),
    ({"max_slots": 0}, "max_slots must be at least 1, not 0"),
    ({"max_queue": -1}, "max_queue must be at least 0, not -1"),
    ({"router": AlwaysDraft(), "threshold": 0.5}, r"threshold=0\.5 .* AlwaysDraft has no thresh"),
    ({"router": DraftConfidence(), "threshold": 1.2}, r"a number from 0 to 1, not 1\.2"),
    ({"router": Random(0.5), "threshold": 2}, "rate of Random must be a number from 0 to 1, not 2"),
    ({"router": 7}, "router"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"draft": None}, "draft"),
]


@pytest.mark.parametrize(("settings", "told"), LIMITS + SETTINGS)
@pytest.mark.parametrize("make", [ChatArbitrage, ArbitrageSettings, create_arbitrage_graph])
def test_a_bad_setting_is_refused_at_construction(
    make: Callable[..., Any], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        make(**pair() | settings)


@pytest.mark.parametrize("make", [ArbitrageSettings, create_arbitrage_graph, ChatArbitrage])
def test_an_unknown_setting_is_refused_with_the_nearest_name(make: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match=r"'max_token'\. Did you mean 'max_tokens'"):
        make(**pair(), max_token=5)


def test_what_langchain_gives_every_chat_model_is_let_pass() -> None:
    llm = ChatArbitrage(**pair(), api_key="none", base_url="none", max_retries=2, tags=["a"])
    assert llm.tags == ["a"]


@pytest.mark.parametrize(("settings", "told"), LIMITS)
def test_a_bad_setting_of_one_call_is_refused(
    settings: dict[str, Any], told: str, chat: Chat, loads: list[str]
) -> None:
    with pytest.raises(SettingsError, match=told):
        chat().invoke(QUESTIONS[0], **settings)
    with pytest.raises(SettingsError, match=told):
        list(chat().stream(QUESTIONS[0], **settings))
    graph = create_arbitrage_graph(**pair()).compile()
    with pytest.raises(SettingsError, match=told):
        graph.invoke({"messages": [("user", "Hi")]}, context=Context(**settings))
    assert not loads


@pytest.mark.parametrize(("policy", "field"), [(DraftConfidence, "threshold"), (Random, "rate")])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), "half", None, True])
def test_a_policy_refuses_what_is_outside_its_range(policy: type, field: str, value: Any) -> None:
    told = f"{field} of {policy.__name__} must be a number from 0 to 1, not {value!r}"
    with pytest.raises(SettingsError, match=told):
        policy(**{field: value})


@pytest.mark.parametrize("threshold", [0, 0.25, 1])
def test_threshold_sets_the_field_that_the_policy_names(threshold: float) -> None:
    assert ChatArbitrage(**pair(), threshold=threshold).policy == TargetLikelihood(threshold)
    random = ChatArbitrage(**pair(), router=Random(0.9, seed=4), threshold=threshold).policy
    assert random == Random(threshold, seed=4)


def test_settings_take_paths_and_single_texts() -> None:
    models = {role: Path(path) for role, path in pair().items()}
    llm = ChatArbitrage(**models, separator="\n", stop="END")
    assert (llm.draft, llm.target) == tuple(pair().values())
    assert (llm.separator, llm.stop) == (("\n",), ("END",))


def test_every_setting_is_documented_under_itself() -> None:
    undocumented = [n for n, f in ArbitrageSettings.model_fields.items() if not f.description]
    assert not undocumented


@dataclass(frozen=True)
class Falsy(Random):
    """A policy that is taken though it calls itself false."""

    def __bool__(self) -> bool:
        return False


def test_a_router_is_taken_whatever_its_truth() -> None:
    assert isinstance(ChatArbitrage(**pair(), router=Falsy()).policy, Falsy)


def test_a_context_may_be_a_plain_dict_with_a_list_or_a_text() -> None:
    graph = create_arbitrage_graph(
        **pair(endless=True, words=True), router=AlwaysDraft(), separator="\n"
    ).compile()
    start = {"messages": [("user", QUESTIONS[0])]}
    free = graph.invoke(start, context={"max_tokens": 30})["messages"][-1].text
    stop = free[10:13]
    for given in ([stop], (stop,), stop):
        state = graph.invoke(start, context={"max_tokens": 30, "stop": given})
        assert state["messages"][-1].text == free[: free.index(stop)].rstrip("\n")


def test_the_embedded_pair_has_its_router_and_no_other_pair_has() -> None:
    embedded_pair = ChatArbitrage()
    assert embedded_pair.policy == LearnedRouter("embedded:router")
    assert embedded_pair.policy.threshold == Calibration.load(embedded.ROUTER).default
    assert ChatArbitrage(draft=embedded.TARGET).policy == TargetLikelihood()
    assert ChatArbitrage(target=embedded.DRAFT).policy == TargetLikelihood()
    assert ChatArbitrage(threshold=0.3).policy == LearnedRouter("embedded:router", 0.3)
    rate = ChatArbitrage(threshold="rate:0.2").policy
    assert rate == LearnedRouter("embedded:router", "rate:0.2")


def test_the_likelihood_is_never_the_default_for_a_target_on_a_server() -> None:
    server = f"openai:http://127.0.0.1:9/v1?tokenizer={embedded.TARGET}#m"
    assert ChatArbitrage(target=server).policy == DraftConfidence()
    assert ChatArbitrage(draft=server, target=embedded.TARGET).policy == TargetLikelihood()


@pytest.mark.parametrize(
    "use",
    [
        lambda: ArbitrageSettings(speculate="off"),
        lambda: ChatArbitrage(speculate="off"),
        lambda: ChatArbitrage().invoke("Hi", speculate="off"),
        lambda: Context(speculate="off"),
    ],
    ids=["settings", "chat model", "call", "context"],
)
def test_a_removed_setting_is_refused_by_name(use: Any) -> None:
    with pytest.raises(SettingsError, match=r"speculate was removed\. .*Leave the setting out"):
        use()
