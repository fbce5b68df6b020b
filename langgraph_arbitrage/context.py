"""Settings of one run, over the graph's own: LangGraph's `context=`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from langgraph_arbitrage.removed import refuse_removed

if TYPE_CHECKING:
    from langgraph_arbitrage.tools.form import AnswerForm

__all__ = ["OPTIONS", "Context"]

OPTIONS = ("first_steps", "escalate_repeats", "max_target_share")
"""Settings that put an option around the policy."""


@dataclass(frozen=True)
class Context:
    """Settings of one run, for LangGraph's `context=`; None leaves the graph's own.

    Example:
        `graph.invoke({"messages": [...]}, context=Context(threshold=0.7, max_tokens=256))`
    """

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Refuse a setting that was removed, by name."""
        refuse_removed(settings)
        return super().__new__(cls)

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
