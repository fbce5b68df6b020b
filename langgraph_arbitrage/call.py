"""One call of the chat model: a run of the inner graph, set apart from whatever graph calls it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime
from langgraph.types import StreamMode

from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.graphs.arbitrage import recursion_limit
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.nodes import CancelScope
from langgraph_arbitrage.prompts import check_conversation
from langgraph_arbitrage.removed import refuse_removed

__all__ = ["Call"]

FORM_SETTINGS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
CALL_SETTINGS = ("model", *Context.OVERRIDES, *FORM_SETTINGS)
"""What can be set for one call."""
IGNORED = ("ls_structured_output_format", "stream", "strict")
"""What LangChain and its agents pass along to every model."""
STREAMED: list[StreamMode] = ["custom", "values"]
READ = ["messages", "steps", "finish_reason"]
"""What of the state is read: LangGraph copies out the rest of it at every node."""

Graph = CompiledStateGraph[Any, Any, Any, Any]


@dataclass(frozen=True)
class Call:
    """Input and options of a run, and the variables that it sees.

    The run's own config: callbacks, limits and checkpoints of a graph that the chat model is used
    in must not reach the inner graph, unless a human approves of its steps: then it is a subgraph,
    so that an interrupt stops the parent, and resuming the parent resumes it.
    """

    start: Any
    config: RunnableConfig
    context: Context
    limits: Limits
    """Those in force: the chat model's, overridden by the call's."""
    variables: Variables
    tell: Callable[[StepEvent], None]
    """Hands an event to the graph that the chat model is used in."""

    @classmethod
    def of(
        cls,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        overrides: dict[str, Any],
        limits: Limits,
        *,
        whole: bool,
    ) -> Call:
        """A call.

        Args:
            messages: The conversation.
            stop: Stop strings of this call; None leaves the chat model's.
            overrides: Further settings of this call.
            limits: The chat model's own.
            whole: Whether the answer is wanted as a whole, and not its parts.

        Raises:
            SettingsError: There is no such setting of a call, or it is outside its range.
            MessageError: The conversation is empty or holds what no text model reads.
        """
        refuse_removed(overrides)
        if unknown := overrides.keys() - {*CALL_SETTINGS, *IGNORED}:
            known = ", ".join(sorted(CALL_SETTINGS))
            raise SettingsError(
                f"{', '.join(sorted(unknown))} is no setting of a call; those known are {known}"
            )
        given = {n: v for n in CALL_SETTINGS if (v := overrides.get(n)) is not None}
        given.pop("model", None)
        if stop is not None:
            given["stop"] = tuple(stop)
        tell = _parents_listener()
        # Of a whole answer nobody hears the parts but a graph that the chat model is used in.
        context = Context(**given, cancel=CancelScope(), quiet=whole and tell is None)
        limits = limits.overridden(context)
        variables = copy_context()
        if limits.approve is None:
            variables.run(var_child_runnable_config.set, None)
        check_conversation(messages)
        # The graph gives messages ids, and takes two of one id for one message.
        copies = [m.model_copy(update={"id": None}) for m in messages]
        return cls(
            start={"messages": copies},
            config={"recursion_limit": recursion_limit(limits), "callbacks": []},
            context=context,
            limits=limits,
            variables=variables,
            tell=tell or _nobody,
        )

    def parts(self, graph: Graph) -> Generator[Any]:
        """The events and states of the run as they come; of a quiet one the last state only.

        Reading a stream costs LangGraph a thread and a hand-over an event.
        """
        if self.context.quiet:
            states = graph.stream(self.start, **self._options, stream_mode="values")
            yield "values", deque(states, maxlen=1).pop()
        else:
            yield from graph.stream(self.start, **self._options, stream_mode=STREAMED)

    async def aparts(self, graph: Graph) -> AsyncGenerator[Any]:
        """The same, on the event loop."""
        if self.context.quiet:
            async for part in graph.astream(self.start, **self._options, stream_mode="values"):
                state = part
            yield "values", state
        else:
            async for part in graph.astream(self.start, **self._options, stream_mode=STREAMED):
                yield part

    @property
    def _options(self) -> dict[str, Any]:
        return {"config": self.config, "context": self.context, "output_keys": READ}


def _parents_listener() -> Callable[[StepEvent], None] | None:
    """Puts events on the custom stream of the graph whose node calls this, if one does."""
    try:
        runtime = get_runtime()
        write, about = runtime.stream_writer, runtime.execution_info
    except (RuntimeError, KeyError, AttributeError):  # no node of a graph calls
        return None
    thread = about.thread_id if about else None
    here = copy_context()  # the writer looks up there which node it writes for

    def tell(event: StepEvent) -> None:
        here.copy().run(write, {**event, "thread": thread})

    return tell


def _nobody(event: StepEvent) -> None:
    pass
