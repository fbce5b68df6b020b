"""The chat model: the state machine behind LangChain's interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime

from langgraph_arbitrage.answer import AnswerStream
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph, recursion_limit
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.nodes import CancelScope
from langgraph_arbitrage.settings import ArbitrageSettings, Context, Limits

__all__ = ["ChatArbitrage"]


class ChatArbitrage(ArbitrageSettings, BaseChatModel):
    """A chat model that reasons with two models: a draft writes, a target rewrites what pays.

    Without arguments it runs the embedded models, which solve small word problems. With two
    models of one's own and no router, a step is escalated when the draft was not sure of it.

    Models are loaded at the first answer and shared by everything in the process that uses the
    same checkpoints with the same settings; `close()` gives them back.

    Example:
        >>> from langgraph_arbitrage import ChatArbitrage
        >>> llm = ChatArbitrage(max_tokens=200)
        >>> message = llm.invoke("Ann has 3 apples and buys 4 more. How many has she?")
        >>> figures = message.response_metadata["arbitrage"]
        >>> message.text == "".join(step["text"] for step in figures["steps"])
        True

    Raises:
        SettingsError: A setting is outside its range (at construction).
        CheckpointError: A model cannot be loaded (at the first answer, before any work).
        MessageError: The conversation is empty or holds what no text model reads.
        ContextLengthError: The conversation does not fit a model's context.
    """

    @property
    def _llm_type(self) -> str:
        return "langgraph-arbitrage"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = (n for n in ArbitrageSettings.model_fields if n not in ("router", "threshold"))
        return {name: getattr(self, name) for name in fields} | {"policy": repr(self.policy)}

    def prepare(self) -> None:
        """Check the checkpoints and load the tokenizers now rather than at the first answer.

        Raises:
            CheckpointError: A model cannot be loaded.
            NotEnoughMemoryError: A model does not fit its device.
        """
        self._models.prepare(self.policy)

    def close(self) -> None:
        """Give the models back; those without another user are unloaded."""
        self._models.close()

    def __copy__(self) -> Self:
        copied = super().__copy__()
        for cached in (
            "_models",
            "_graph",
            "_resumable_graph",
        ):  # a copy is made to be changed: it gets its own
            copied.__dict__.pop(cached, None)
        return copied

    # --- one graph for every call --------------------------------------------------------

    @cached_property
    def _models(self) -> Models:
        return Models(self)

    @cached_property
    def _graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        # A parent's checkpointer would otherwise record every inner step.
        return create_arbitrage_graph(self._models).compile(checkpointer=False)

    @cached_property
    def _resumable_graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        # While a human decides, the steps so far are kept by the parent's checkpointer.
        return create_arbitrage_graph(self._models).compile()

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
        *,
        whole: bool = False,
    ) -> _Call:
        """A run: its graph, input, options, and the variables that it sees.

        The run's own config: callbacks, limits and checkpoints of a graph that this chat model
        is used in must not reach the inner graph, unless a human approves of its steps: then it
        is a subgraph, so that an interrupt stops the parent, and resuming the parent resumes it.
        """
        given = {n: v for n in Context.OVERRIDES if (v := overrides.get(n)) is not None}
        if stop is not None:
            given["stop"] = tuple(stop)
        tell = _parents_listener()
        # Of a whole answer nobody hears the parts but a graph that the chat model is used in.
        quiet = whole and tell is None
        context = Context(**given, cancel=CancelScope(), quiet=quiet)
        limits = Limits.of(self).overridden(context)
        config: RunnableConfig = {"recursion_limit": recursion_limit(limits), "callbacks": []}
        variables = copy_context()
        if limits.approve is None:
            variables.run(var_child_runnable_config.set, None)
        # The graph gives messages ids; the caller's own are left as they are.
        copies = [m.model_copy() for m in messages]
        return _Call(
            graph=self._graph if limits.approve is None else self._resumable_graph,
            start={"messages": copies},
            config=config,
            context=context,
            variables=variables,
            tell=tell or _nobody,
        )

    # --- whole answers -------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs, whole=True)
        try:
            state = call.variables.run(lambda: call.graph.invoke(call.start, **call.telling))
        except BaseException:
            call.context.cancel.cancel()
            raise
        return _result(state)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs, whole=True)
        try:
            running = call.graph.ainvoke(call.start, **call.telling)
            state = await asyncio.create_task(running, context=call.variables)
        except BaseException:
            call.context.cancel.cancel()
            raise
        return _result(state)

    # --- streams -------------------------------------------------------------------------

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        parts: Any = call.graph.stream(call.start, **call.streaming)
        chunks = _Chunks(self._answer_stream(call.context), call.tell)
        # LangGraph, interrupted while it streams, waits for the node that runs. On a thread of its
        # own it is not interrupted: Ctrl-C reaches the thread that waits here, and cancels.
        beside = ThreadPoolExecutor(1)
        step = partial(call.variables.run, partial(next, parts, None))
        try:
            while (part := beside.submit(step).result()) is not None:
                for chunk in chunks.take(part):
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            call.context.cancel.cancel()
            beside.shutdown()
            call.variables.run(parts.close)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        parts: Any = call.graph.astream(call.start, **call.streaming)
        chunks = _Chunks(self._answer_stream(call.context), call.tell)
        try:
            while True:
                step = anext(parts, None)
                part = await asyncio.create_task(step, context=call.variables)
                if part is None:
                    return
                for chunk in chunks.take(part):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            call.context.cancel.cancel()
            await parts.aclose()

    def _answer_stream(self, context: Context) -> AnswerStream:
        stop = self.stop if context.stop is None else context.stop
        return AnswerStream(stop, self.separator)


@dataclass(frozen=True)
class _Call:
    """A run of the inner graph."""

    graph: CompiledStateGraph[Any, Any, Any, Any]
    start: Any
    config: RunnableConfig
    context: Context
    variables: Variables
    tell: Callable[[StepEvent], None]
    """Hands an event to the graph that the chat model is used in."""

    @property
    def telling(self) -> dict[str, Any]:
        """Options of a run whose events go to the parent's stream directly."""
        return {"config": self.config, "context": replace(self.context, listener=self.tell)}

    @property
    def streaming(self) -> dict[str, Any]:
        """Options of a run whose events are read from its own stream."""
        modes = ["custom", "values"]
        return {"config": self.config, "context": self.context, "stream_mode": modes}


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


class _Chunks:
    """Chunks of a streamed answer: text as it is released, figures on the last one."""

    def __init__(self, answer: AnswerStream, tell: Callable[[StepEvent], None]) -> None:
        self._answer = answer
        self._tell = tell
        self._begun = False

    def take(self, part: tuple[str, Any]) -> Iterator[ChatGenerationChunk]:
        mode, data = part
        if mode == "custom":
            self._tell(data)
            yield from self._text(self._answer.take(data))
        elif data.get("finish_reason"):
            message: AIMessage = data["messages"][-1]
            yield ChatGenerationChunk(
                message=AIMessageChunk(
                    content="",
                    usage_metadata=message.usage_metadata,
                    response_metadata=message.response_metadata,
                    chunk_position="last",
                )
            )
        elif not self._begun:  # a run that is resumed has steps: the message is made of all chunks
            self._begun = True
            for step in data.get("steps", []):
                yield from self._text(self._answer.push(step["text"]))

    @staticmethod
    def _text(text: str) -> Iterator[ChatGenerationChunk]:
        if text:
            yield ChatGenerationChunk(message=AIMessageChunk(content=text))


def _result(state: dict[str, Any]) -> ChatResult:
    message: AIMessage = state["messages"][-1].model_copy(update={"id": None})
    return ChatResult(generations=[ChatGeneration(message=message)])
