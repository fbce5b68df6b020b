"""What can be set, checked when it is set. The texts under the fields are the CLI's help too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, InstanceOf, model_validator

from langgraph_arbitrage import embedded
from langgraph_arbitrage.approval import check_approval
from langgraph_arbitrage.checked_settings import CheckedSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import (
    Budget,
    DraftConfidence,
    EscalateRepeats,
    FirstSteps,
    LearnedRouter,
    Policy,
)

if TYPE_CHECKING:
    from langgraph_arbitrage.tools.form import AnswerForm

__all__ = ["ArbitrageSettings", "Context", "Limits", "default_policy"]


def _texts(value: Any) -> Any:
    """One text or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _text(value: Any) -> Any:
    """A path object as a text."""
    return str(value) if hasattr(value, "__fspath__") else value


def _number(value: Any) -> Any:
    """A number that is written as a text, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _policy(value: Any) -> Any:
    """A router's checkpoint as the policy that uses it."""
    value = _text(value)
    return LearnedRouter(value) if isinstance(value, str) else value


_T = TypeVar("_T")
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
ModelName = Annotated[str, BeforeValidator(_text)]
Threshold = Annotated[float | str, BeforeValidator(_number)]
Router = Annotated[InstanceOf[Policy] | str, BeforeValidator(_policy)]


def default_policy(draft: str, target: str) -> Policy:
    """The embedded router for the embedded pair, the only one that it knows; else DraftConfidence.

    Most pairs have no trained router.
    """
    is_embedded = (draft, target) == (embedded.DRAFT, embedded.TARGET)
    return _embedded_router() if is_embedded else DraftConfidence()


@cache
def _embedded_router() -> LearnedRouter:
    return LearnedRouter("embedded:router")


OPTIONS = ("first_steps", "escalate_repeats", "max_target_share")
"""Settings that put an option around the policy."""


class ArbitrageSettings(CheckedSettings):
    """Models, policy, sampling and limits: the same for the chat model, the graph and the CLI."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    draft: ModelName = embedded.DRAFT
    """Small model that writes each step first: a local folder or a hub id."""
    target: ModelName = embedded.TARGET
    """Large model that rewrites the steps that are escalated: a local folder, a hub id, or a model
    on an OpenAI-compatible server, openai:http://host:port/v1#model (extra `remote`)."""
    router: Router | None = None
    """Policy that decides which steps are escalated, or the checkpoint of a trained router, which
    then decides; default the embedded router for the embedded pair, else DraftConfidence."""
    threshold: Threshold | None = None
    """Threshold of the policy, in the policy's own range and direction; default the policy's.
    With a calibrated router also rate:R (about this share of the steps is escalated) or loss:E
    (no more is lost against the target alone)."""
    first_steps: int = 0
    """The target writes so many first steps of an answer, without a draft."""
    escalate_repeats: bool = False
    """Escalate a draft's step that repeats an earlier one of the answer: the draft is in a loop."""
    max_target_share: float = 1.0
    """Most steps that the target writes, as a share of the steps; beyond that the draft's are
    accepted."""
    max_tokens: int = Field(default=1024)
    """Most tokens of an answer."""
    max_steps: int = 200
    """Most steps of an answer."""
    max_step_tokens: int = 512
    """Most tokens of one step; a longer one goes on as the next."""
    max_thinking_tokens: int | None = None
    """Most tokens of thinking (`<think>`) before it is closed and the answer begins."""
    max_target_tokens: int | None = None
    """Most tokens that the target writes for an answer, those of discarded steps included; what
    happens then says at_limit. No limit by default."""
    max_seconds: float | None = None
    """Most seconds that models spend on an answer, waiting for a busy model included, lying still
    on a disk or before a human not; a step under way is finished. What happens then says at_limit
    (timeout raises an error instead). No limit by default."""
    at_limit: Literal["end", "draft"] = "end"
    """At max_target_tokens or max_seconds: end the answer as it is, or have the draft finish it
    alone."""
    approve: str | None = None
    """Ask a human, by a LangGraph interrupt: before all "escalations"; at the "budget", that is
    before each escalation once the target has written max_target_tokens; or about each step on
    whose tokens the draft's mean probability is "below:0.8". Needs a checkpointer; off by
    default."""
    speculate: Literal["auto", "on", "off"] = "auto"
    """Whether the draft guesses tokens ahead inside of an escalated step, after the target has
    parted from its own: auto does so while it is measured to be faster. The text is the same."""
    temperature: float = 0.0
    """0 takes the most probable token each time; higher is more varied."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens whose probabilities reach this sum."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 for all."""
    seed: int | None = None
    """Seed for sampling: the same seed gives the same answer. Drawn anew where none is given."""
    stop: Texts = ()
    """Strings that end an answer; they are not part of it."""
    timeout: float | None = None
    """Seconds an answer may take, waiting and loading included; then AnswerTimeoutError, and there
    is no answer (max_seconds ends one with what it has)."""
    logprobs: bool = False
    """Report each token's log-probability under the model that wrote it, as response metadata."""
    separator: Texts = ("\n\n",)
    """What ends a step; several are allowed."""
    device: str = "auto"
    """Where the models run: auto (GPU when there is one, else CPU), cpu, cuda, cuda:1, mps."""
    dtype: str = "auto"
    """Precision: auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16."""
    draft_revision: str | None = None
    """Branch, tag or commit of the draft on the hub."""
    target_revision: str | None = None
    """Branch, tag or commit of the target on the hub."""
    chat_template: str | None = None
    """Jinja chat template for a model that brings none of its own."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint. Only for checkpoints that you have read."""
    max_slots: int = 64
    """Most answers that a model works on at a time; more wait."""
    max_queue: int | None = None
    """Most answers that wait for a model; one more gets EngineBusyError. None: all wait."""
    batch_invariant: bool = False
    """Exactly the same answer whatever else is asked: slower, one sequence at a time."""
    cuda_graphs: bool | None = None
    """Decode by CUDA graphs on a GPU; default where they serve. On says why where they do not.
    No GPU has run them yet: each is compared with the ordinary way before it is used."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of transformers' from_pretrained, for both models."""
    draft_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of from_pretrained for the draft alone, over model_kwargs, such as the
    quantization_config that makes a copy of the target its draft."""
    target_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of from_pretrained for the target alone, over model_kwargs, such as a device_map
    that spreads it over several GPUs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_limits(self)
        if not self.separator or not all(self.separator):
            raise SettingsError(
                f"separator must be one or more texts, none of them empty, not {self.separator!r}; "
                "the usual one is a blank line, '\\n\\n'"
            )
        if self.max_slots < 1:
            raise SettingsError(f"max_slots must be at least 1, not {self.max_slots}")
        if self.max_queue is not None and self.max_queue < 0:
            raise SettingsError(f"max_queue must be at least 0, not {self.max_queue}")
        if self.router is not None or self.threshold is not None:
            _ = self.policy  # a threshold outside the policy's range fails here
        return self

    @property
    def policy(self) -> Policy:
        """The policy in force, with threshold and options applied."""
        return Limits.of(self).policy

    @property
    def given(self) -> dict[str, Any]:
        """What was set, to make the same settings or a chat model with them elsewhere."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def under(self, policy: Policy) -> Self:
        """These settings with another policy, alone.

        What says how far the target may go is left out: a threshold, the options around a policy,
        the budget of its tokens, a human's approval.
        """
        alone = ("threshold", *OPTIONS, "max_target_tokens", "approve")
        fields = type(self).model_fields
        return self.model_copy(
            update={"router": policy} | {name: fields[name].default for name in alone}
        )


@dataclass(frozen=True)
class Context:
    """Settings of one run, for LangGraph's `context=`; None leaves the graph's own.

    Example:
        `graph.invoke({"messages": [...]}, context=Context(threshold=0.7, max_tokens=256))`
    """

    threshold: float | str | None = None
    first_steps: int | None = None
    escalate_repeats: bool | None = None
    max_target_share: float | None = None
    max_tokens: int | None = None
    max_steps: int | None = None
    max_step_tokens: int | None = None
    max_thinking_tokens: int | None = None
    max_target_tokens: int | None = None
    max_seconds: float | None = None
    at_limit: Literal["end", "draft"] | None = None
    approve: str | None = None
    speculate: Literal["auto", "on", "off"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    timeout: float | None = None
    other_models: bool | None = None
    """Go on with a checkpoint that other models wrote: steps cross as text to these ones."""
    logprobs: bool | None = None
    tools: Sequence[Any] | None = None
    """Tools that the model may call: functions, tools, pydantic classes, JSON schemas."""
    tool_choice: Any = None
    """`auto`, `any`, `none`, or the name of the tool that has to be called."""
    parallel_tool_calls: bool | None = None
    """Whether an answer may hold several calls; None leaves it to the model."""
    response_format: Any = None
    """What the answer has to fit: a schema, or one in OpenAI's form of a response format."""
    cancel: Any = None
    """A `CancelScope`: cancelling it ends the run's model work within a token."""
    quiet: bool = False
    """Nobody hears this run's events: the target's tokens are then not told one by one."""

    OVERRIDES: ClassVar[tuple[str, ...]] = (
        "threshold",
        *OPTIONS,
        "max_tokens",
        "max_steps",
        "max_step_tokens",
        "max_thinking_tokens",
        "max_target_tokens",
        "max_seconds",
        "at_limit",
        "approve",
        "speculate",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "timeout",
        "logprobs",
    )

    @property
    def form(self) -> AnswerForm:
        """What the answer may be.

        Raises:
            SettingsError: A tool, a choice or a format is none that is known.
            GrammarError: A schema is too large.
        """
        from langgraph_arbitrage.tools.form import AnswerForm  # needs more of langchain-core

        return AnswerForm.of(
            self.tools, self.tool_choice, self.parallel_tool_calls, self.response_format
        )


_make_limits = attrgetter("router", "draft", "target", *Context.OVERRIDES)


@dataclass(frozen=True)
class Limits:
    """Policy, sampling and limits in force for one run: the settings, overridden by its context."""

    router: Policy
    threshold: float | str | None
    first_steps: int
    escalate_repeats: bool
    max_target_share: float
    max_tokens: int
    max_steps: int
    max_step_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    timeout: float | None
    max_target_tokens: int | None
    max_seconds: float | None
    at_limit: Literal["end", "draft"]
    approve: str | None
    max_thinking_tokens: int | None
    speculate: Literal["auto", "on", "off"]
    logprobs: bool

    @staticmethod
    def values(settings: ArbitrageSettings) -> tuple[Any, ...]:
        """The values of the settings that make their limits."""
        values: tuple[Any, ...] = _make_limits(settings)
        return values

    @classmethod
    def of(cls, settings: ArbitrageSettings) -> Limits:
        """The settings' own."""
        router = _policy(settings.router)
        if router is None:
            router = default_policy(settings.draft, settings.target)
        return cls(router, **{name: getattr(settings, name) for name in Context.OVERRIDES})

    @cached_property
    def policy(self) -> Policy:
        """The router with the threshold in force, and the options around it.

        The budget is the outermost: it has the last word.

        Raises:
            SettingsError: A value is outside its range.
        """
        policy = self.router
        if self.threshold is not None:
            policy = policy.with_threshold(_number(self.threshold))
        if self.escalate_repeats:
            policy = EscalateRepeats(policy)
        if self.first_steps:
            policy = FirstSteps(policy, self.first_steps)
        if self.max_target_share != 1:
            policy = Budget(policy, self.max_target_share)
        return policy

    def overridden(self, context: Context | None) -> Limits:
        """These limits with what the context sets.

        Raises:
            SettingsError: A value is outside its range.
        """
        if context is None:
            return self
        given = {
            name: value
            for name in Context.OVERRIDES
            if (value := getattr(context, name, None)) is not None
        }
        if not given:
            return self
        if "stop" in given:
            given["stop"] = _texts(given["stop"])
        limits = check_limits(replace(self, **given))
        _ = limits.policy  # a threshold outside the policy's range fails here
        return limits


def check_limits(limits: _T) -> _T:
    """Raise `SettingsError` where a limit or a sampling setting is outside its range."""
    for name in ("max_tokens", "max_steps", "max_step_tokens", "max_thinking_tokens"):
        value = getattr(limits, name)
        if value is None and name == "max_thinking_tokens":
            continue
        if not isinstance(value, int) or value < 1:
            raise SettingsError(f"{name} must be at least 1, not {value}")
    for name in ("max_target_tokens", "max_seconds"):
        value = getattr(limits, name)
        if value is not None and not value > 0:
            raise SettingsError(f"{name} must be above 0, or None for no limit, not {value}")
    if limits.at_limit not in ("end", "draft"):  # type: ignore[attr-defined]
        raise SettingsError(f"at_limit must be 'end' or 'draft', not {limits.at_limit!r}")  # type: ignore[attr-defined]
    if limits.speculate not in ("auto", "on", "off"):  # type: ignore[attr-defined]
        raise SettingsError(
            f"speculate must be 'auto', 'on' or 'off', not {limits.speculate!r}"  # type: ignore[attr-defined]
        )
    check_approval(limits)
    temperature, top_p, top_k, stop, timeout = (
        getattr(limits, n) for n in ("temperature", "top_p", "top_k", "stop", "timeout")
    )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise SettingsError(f"temperature must be 0 or more, not {temperature}")
    if not 0 < top_p <= 1:
        raise SettingsError(f"top_p must be above 0 and at most 1, not {top_p}")
    if top_k < 0:
        raise SettingsError(f"top_k must be 0 (for all tokens) or more, not {top_k}")
    first = limits.first_steps  # type: ignore[attr-defined]
    if not isinstance(first, int) or first < 0:
        raise SettingsError(f"first_steps must be a whole number, 0 or more, not {first!r}")
    share = limits.max_target_share  # type: ignore[attr-defined]
    if not 0 <= share <= 1:
        raise SettingsError(f"max_target_share must be a number from 0 to 1, not {share}")
    if timeout is not None and not timeout > 0:
        raise SettingsError(f"timeout must be above 0 seconds, or None for no limit, not {timeout}")
    if not all(stop):
        raise SettingsError(f"a stop string must not be empty: {stop!r}")
    return limits
