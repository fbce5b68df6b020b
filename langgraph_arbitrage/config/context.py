"""Settings of one run, for LangGraph's `context=`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, PrivateAttr, model_validator

from langgraph_arbitrage.config.run_options import RunOptions

__all__ = ["Context"]


class Context(RunOptions):
    """Overrides settings of the graph or chat model for one run.

    Only what is set takes effect. None leaves the graph's own value.

    Example:
        `graph.invoke({"messages": [...]}, context=Context(threshold=0.7, max_tokens=256))`
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    other_models: bool = False
    """Continue a checkpoint that other models wrote. Its steps pass to these models as text."""
    tools: Sequence[Any] | None = None
    """Tools that the model may call: functions, tools, pydantic classes or JSON schemas."""
    tool_choice: Any = None
    """`auto`, `any`, `none`, or the name of the tool that must be called."""
    parallel_tool_calls: bool | None = None
    """Whether an answer may hold several calls. Default: the model decides."""
    response_format: Any = None
    """Schema that the answer must fit, as JSON schema or in OpenAI's `response_format` form."""
    cancel: Any = None
    """A `CancelScope`. Cancelling it stops the run's model work within a token."""
    quiet: bool = False
    """Do not report the target's tokens one by one, because nobody reads the run's stream."""

    _in_force: Any = PrivateAttr(default=None)
    """The run's settings, cached: the nodes of a run share its context."""

    @model_validator(mode="before")
    @classmethod
    def _none_leaves_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values

    @property
    def overrides(self) -> dict[str, Any]:
        """The run options that are set."""
        return {n: getattr(self, n) for n in self.model_fields_set & RunOptions.model_fields.keys()}
