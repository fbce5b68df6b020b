"""Settings of one run, for LangGraph's `context=`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, PrivateAttr, model_validator

from langgraph_arbitrage.config.run_options import RunOptions

__all__ = ["Context"]


class Context(RunOptions):
    """Overrides settings of the graph or chat model for one run.

    A value of None does not override the graph's value.

    Example:
        `graph.invoke({"messages": [...]}, context=Context(threshold=0.7, max_tokens=256))`
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    other_models: bool = False
    """Continue an answer that other models began. These models read its steps as text."""
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
    """Do not report the target's tokens one by one. For runs whose stream is not read."""

    _in_force: Any = PrivateAttr(default=None)
    """Cached settings of the run, shared by its nodes."""

    @model_validator(mode="before")
    @classmethod
    def _none_leaves_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values

    @property
    def overrides(self) -> dict[str, Any]:
        """Return the run options that are set."""
        return {n: getattr(self, n) for n in self.model_fields_set & RunOptions.model_fields.keys()}
