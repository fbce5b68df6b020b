"""One call of the chat model: a run of the inner graph, isolated from the graph that calls it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime
from langgraph.types import StreamMode

from langgraph_arbitrage.chat_model.content_blocks import BlockIndexer
from langgraph_arbitrage.config.base import unknown_setting
from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.config.removed import refuse_removed
from langgraph_arbitrage.config.run_options import RunOptions
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.graphs.arbitrage import recursion_limit
from langgraph_arbitrage.loop.answer import AnswerAssembler
from langgraph_arbitrage.loop.answer_state import joined_text
from langgraph_arbitrage.loop.engine_calls import CancelScope
from langgraph_arbitrage.loop.generation import Generation
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.prompts.messages import check_conversation
from langgraph_arbitrage.state import StepRecord
from langgraph_arbitrage.tools.response_format import ResponseFormat

__all__ = ["Invocation"]

FORMAT_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
CALL_OPTIONS = ("model", *RunOptions.model_fields, *FORMAT_OPTIONS)
"""Options that apply to a single call only."""
IGNORED = ("ls_structured_output_format", "stream", "strict")
"""Options that LangChain and its agents pass to every model."""
READ_KEYS = ["messages", "steps", "finish_reason"]
"""State keys in the output. LangGraph copies every listed key at every node."""

Graph = CompiledStateGraph[Any, Any, Any, Any]
Part = tuple[str, Any]
"""A stream mode and its data."""


@dataclass(frozen=True)
class Invocation:
    """Input and options of a run, and the context variables that it runs in.

    Callbacks, limits and checkpoints of a calling graph do not reach the inner graph. The exception
    is human approval: then the inner graph is a subgraph, so that an interrupt stops the calling
    graph, and resuming that resumes it.
    """

    messages: list[BaseMessage]
    context: Context
    settings: RunSettings
    """The run's settings: those of the chat model, overridden by those of the call."""
    models: Models
    variables: Variables
    forward: Callable[[StepEvent], None] | None
    """Forwards events to the calling graph, if there is one."""

    @classmethod
    def of(
        cls,
        models: Models,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        overrides: dict[str, Any],
        *,
        streams: bool,
    ) -> Invocation:
        """Validate a call.

        Args:
            models: The chat model's models.
            messages: The conversation.
            stop: Stop strings of this call; None for the chat model's.
            overrides: Further options of this call.
            streams: Whether the caller reads the answer while it is generated.

        Raises:
            SettingsError: An option is unknown or outside its range.
            MessageError: The conversation is empty, or no text model can read it.
        """
        refuse_removed(overrides)
        if unknown := overrides.keys() - {*CALL_OPTIONS, *IGNORED}:
            raise unknown_setting(unknown, CALL_OPTIONS)
        given = {n: v for n in CALL_OPTIONS if (v := overrides.get(n)) is not None}
        given.pop("model", None)
        if stop is not None:
            given["stop"] = tuple(stop)
        forward = _parent_listener()
        context = Context(**given, cancel=CancelScope(), quiet=not streams and forward is None)
        settings = models.run_settings.overridden(context)
        variables = copy_context()
        if settings.approve is None:
            variables.run(var_child_runnable_config.set, None)
        check_conversation(messages)
        # The graph gives messages ids, and would merge two messages with one id.
        copies = [m.model_copy(update={"id": None}) for m in messages]
        return cls(copies, context, settings, models, variables, forward)

    # --- the run -------------------------------------------------------------------------

    def stream(self, graph: Graph, modes: list[StreamMode]) -> Generator[Part]:
        """Yield the parts of the run."""
        yield from graph.stream(self._input, **self._options, stream_mode=modes)

    async def astream(self, graph: Graph, modes: list[StreamMode]) -> AsyncGenerator[Part]:
        """Yield the parts of the run on the event loop."""
        async for part in graph.astream(self._input, **self._options, stream_mode=modes):
            yield part

    @property
    def answer_modes(self) -> list[StreamMode]:
        """Return the stream modes for a complete answer."""
        return ["values"] if self.forward is None else ["custom", "values"]

    @property
    def chunk_modes(self) -> list[StreamMode]:
        """Return the stream modes for a streamed answer."""
        resumable: list[StreamMode] = ["values"] if self.settings.approve else []
        return ["custom", "messages", *resumable]

    @property
    def _input(self) -> dict[str, Any]:
        return {"messages": self.messages}

    @property
    def _options(self) -> dict[str, Any]:
        config = RunnableConfig(recursion_limit=recursion_limit(self.settings), callbacks=[])
        return {"config": config, "context": self.context, "output_keys": READ_KEYS}

    # --- its output ----------------------------------------------------------------------

    def answer(self, parts: Iterable[Part]) -> AIMessage:
        """Return the complete answer of a run and forward the run's events."""
        state: Any = None
        for part in parts:
            state = self._last_state(part, state)
        return self._message(state)

    async def aanswer(self, parts: AsyncIterator[Part]) -> AIMessage:
        """Return the complete answer of a run, on the event loop."""
        state: Any = None
        async for part in parts:
            state = self._last_state(part, state)
        return self._message(state)

    def _last_state(self, part: Part, before: Any) -> Any:
        mode, data = part
        if mode == "values":
            return data
        if self.forward is not None:
            self.forward(data)
        return before

    def _message(self, state: Any) -> AIMessage:
        message: AIMessage = state["messages"][-1]
        return message.model_copy(update={"id": None})  # LangChain sets its own

    def chunk_converter(self, *, blocks: bool) -> Callable[[Part], list[ChatGenerationChunk]]:
        """Return a function that converts each part of the run to chunks and forwards its events.

        Args:
            blocks: Whether the content is a list of standard content blocks (LangChain's output
                version v1).
        """
        indexer = BlockIndexer() if blocks else None
        began = False

        def convert(part: Part) -> list[ChatGenerationChunk]:
            nonlocal began
            mode, data = part
            found: list[AIMessageChunk] = []
            if mode == "custom":
                if self.forward is not None:
                    self.forward(data)
            elif mode == "messages":
                found = [data[0]]
                began = True
            elif not began:
                # The first steps of a resumed run are already committed.
                found = self._chunks_of(data.get("steps") or [])
                began = True
            messages = [message.model_copy(update={"id": None}) for message in found]
            if indexer:
                messages = [indexer.convert(message) for message in messages]
            return [ChatGenerationChunk(message=message) for message in messages]

        return convert

    def _chunks_of(self, steps: Sequence[StepRecord]) -> list[AIMessageChunk]:
        """Return the chunks of committed steps."""
        if not steps:
            return []
        tools = ResponseFormat.of(self.context.tools, self.context.tool_choice).tools
        parser = Generation(self.models, self.settings).parser(steps, tools)
        separators = self.models.settings.separator
        return AnswerAssembler(parser, self.settings.stop, separators).feed(joined_text(steps))


def _parent_listener() -> Callable[[StepEvent], None] | None:
    """Return a function that writes events to the custom stream of the calling graph, if any."""
    try:
        runtime = get_runtime()
        write, info = runtime.stream_writer, runtime.execution_info
    except (RuntimeError, KeyError, AttributeError):  # the call does not come from a graph node
        return None
    thread = info.thread_id if info else None
    variables = copy_context()  # the stream writer reads the node's name from it

    def forward(event: StepEvent) -> None:
        variables.copy().run(write, {**event, "thread": thread})

    return forward
