"""What can be set, checked when it is set. The texts under the fields are the CLI's help too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    model_validator,
)

from langgraph_arbitrage import embedded
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import DraftConfidence, Policy

if TYPE_CHECKING:
    from langgraph_arbitrage.tools.form import AnswerForm

__all__ = ["ArbitrageSettings", "Context", "Limits"]


def _texts(value: Any) -> Any:
    """One text or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _text(value: Any) -> Any:
    """A path object as a text."""
    return str(value) if hasattr(value, "__fspath__") else value


_T = TypeVar("_T")
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
ModelName = Annotated[str, BeforeValidator(_text)]


class ArbitrageSettings(BaseModel):
    """Models, policy, sampling and limits: the same for the chat model, the graph and the CLI."""

    model_config = ConfigDict(
        use_attribute_docstrings=True, arbitrary_types_allowed=True, extra="forbid"
    )

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:  # pydantic wraps what a validator raises
                raise _refusal(error) from None

    draft: ModelName = embedded.DRAFT
    """Small model that writes each step first: a local folder or a hub id."""
    target: ModelName = embedded.TARGET
    """Large model that rewrites the steps that are escalated: a local folder or a hub id."""
    router: InstanceOf[Policy] | None = None
    """Policy that decides which steps are escalated; default DraftConfidence."""
    threshold: float | None = None
    """Threshold of the policy, in the policy's own range and direction; default the policy's."""
    max_tokens: int = Field(default=1024)
    """Most tokens of an answer."""
    max_steps: int = 200
    """Most steps of an answer."""
    max_step_tokens: int = 512
    """Most tokens of one step; a longer one goes on as the next."""
    max_thinking_tokens: int | None = None
    """Most tokens of thinking (`<think>`) before it is closed and the answer begins."""
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
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of transformers' from_pretrained, for both models."""

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
        _ = self.policy  # a threshold outside the policy's range fails here
        return self

    @property
    def policy(self) -> Policy:
        """The policy in force, with `threshold` applied."""
        policy = DraftConfidence() if self.router is None else self.router
        return policy if self.threshold is None else policy.with_threshold(self.threshold)


@dataclass(frozen=True)
class Context:
    """Settings of one run, for LangGraph's `context=`; None leaves the graph's own.

    Example:
        `graph.invoke({"messages": [...]}, context=Context(threshold=0.7, max_tokens=256))`
    """

    threshold: float | None = None
    max_tokens: int | None = None
    max_steps: int | None = None
    max_step_tokens: int | None = None
    max_thinking_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
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

    OVERRIDES: ClassVar[tuple[str, ...]] = (
        "threshold",
        "max_tokens",
        "max_steps",
        "max_step_tokens",
        "max_thinking_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
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


@dataclass(frozen=True)
class Limits:
    """Policy, sampling and limits in force for one run: the settings, overridden by its context."""

    policy: Policy
    max_tokens: int
    max_steps: int
    max_step_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    max_thinking_tokens: int | None
    logprobs: bool

    @classmethod
    def of(cls, settings: ArbitrageSettings) -> Limits:
        """The settings' own."""
        return cls(
            settings.policy,
            settings.max_tokens,
            settings.max_steps,
            settings.max_step_tokens,
            settings.temperature,
            settings.top_p,
            settings.top_k,
            settings.seed,
            settings.stop,
            settings.max_thinking_tokens,
            settings.logprobs,
        )

    def overridden(self, context: Context | None) -> Limits:
        """These limits with what the context sets.

        Raises:
            SettingsError: A value is outside its range.
        """
        given = {
            name: value
            for name in Context.OVERRIDES
            if (value := getattr(context, name, None)) is not None
        }
        if not given:
            return self
        if "stop" in given:
            given["stop"] = _texts(given["stop"])
        threshold = given.pop("threshold", None)
        policy = self.policy if threshold is None else self.policy.with_threshold(threshold)
        return check_limits(replace(self, policy=policy, **given))


def _refusal(error: ValidationError) -> SettingsError:
    """What pydantic refused, as an error of ours."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        return cause
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = ", ".join(ArbitrageSettings.model_fields)
        return SettingsError(f"{name} is no setting; those known are {known}")
    return SettingsError(f"{name}: {first['msg']}, not {first['input']!r}")


def check_limits(limits: _T) -> _T:
    """Raise `SettingsError` where a limit or a sampling setting is outside its range."""
    for name in ("max_tokens", "max_steps", "max_step_tokens", "max_thinking_tokens"):
        value = getattr(limits, name)
        if value is None and name == "max_thinking_tokens":
            continue
        if not isinstance(value, int) or value < 1:
            raise SettingsError(f"{name} must be at least 1, not {value}")
    temperature, top_p, top_k, stop = (
        getattr(limits, n) for n in ("temperature", "top_p", "top_k", "stop")
    )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise SettingsError(f"temperature must be 0 or more, not {temperature}")
    if not 0 < top_p <= 1:
        raise SettingsError(f"top_p must be above 0 and at most 1, not {top_p}")
    if top_k < 0:
        raise SettingsError(f"top_k must be 0 (for all tokens) or more, not {top_k}")
    if not all(stop):
        raise SettingsError(f"a stop string must not be empty: {stop!r}")
    return limits
