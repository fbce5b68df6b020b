"""The chat model: the state machine behind LangChain's interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context as Variables
from contextvars import copy_context
from functools import cached_property, partial
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langgraph.graph.state import CompiledStateGraph

from langgraph_arbitrage.answer import AnswerStream
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
        for cached in ("_models", "_graph"):  # a copy is made to be changed: it gets its own
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

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
        *,
        quiet: bool = False,
    ) -> tuple[Any, dict[str, Any], Variables]:
        """Input and options of a run, and variables in which no parent graph is seen.

        The run's own config: callbacks, limits and checkpoints of a graph that this chat model
        is used in must not reach the inner graph.
        """
        given = {n: v for n in Context.OVERRIDES if (v := overrides.get(n)) is not None}
        if stop is not None:
            given["stop"] = tuple(stop)
        context = Context(**given, cancel=CancelScope(), quiet=quiet)
        config: RunnableConfig = {
            "recursion_limit": recursion_limit(Limits.of(self), context),
            "callbacks": [],
        }
        variables = copy_context()
        variables.run(var_child_runnable_config.set, None)
        # The graph gives messages ids; the caller's own are left as they are.
        copies = [m.model_copy() for m in messages]
        return {"messages": copies}, {"config": config, "context": context}, variables

    # --- whole answers -------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        start, options, variables = self._call(messages, stop, kwargs, quiet=True)
        try:
            state = variables.run(lambda: self._graph.invoke(start, **options))
        except BaseException:
            options["context"].cancel.cancel()
            raise
        return _result(state)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        start, options, variables = self._call(messages, stop, kwargs, quiet=True)
        try:
            running = self._graph.ainvoke(start, **options)
            state = await asyncio.create_task(running, context=variables)
        except BaseException:
            options["context"].cancel.cancel()
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
        start, options, variables = self._call(messages, stop, kwargs)
        parts: Any = self._graph.stream(start, stream_mode=["custom", "values"], **options)
        chunks = _Chunks(self._answer_stream(options["context"]))
        # LangGraph, interrupted while it streams, waits for the node that runs. On a thread of its
        # own it is not interrupted: Ctrl-C reaches the thread that waits here, and cancels.
        beside = ThreadPoolExecutor(1)
        step = partial(variables.run, partial(next, parts, None))
        try:
            while (part := beside.submit(step).result()) is not None:
                for chunk in chunks.take(part):
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            options["context"].cancel.cancel()
            beside.shutdown()
            variables.run(parts.close)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        start, options, variables = self._call(messages, stop, kwargs)
        parts: Any = self._graph.astream(start, stream_mode=["custom", "values"], **options)
        chunks = _Chunks(self._answer_stream(options["context"]))
        try:
            while True:
                step = anext(parts, None)
                part = await asyncio.create_task(step, context=variables)
                if part is None:
                    return
                for chunk in chunks.take(part):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            options["context"].cancel.cancel()
            await parts.aclose()

    def _answer_stream(self, context: Context) -> AnswerStream:
        stop = self.stop if context.stop is None else context.stop
        return AnswerStream(stop, self.separator)


class _Chunks:
    """Chunks of a streamed answer: text as it is released, figures on the last one."""

    def __init__(self, answer: AnswerStream) -> None:
        self._answer = answer

    def take(self, part: tuple[str, Any]) -> Iterator[ChatGenerationChunk]:
        mode, data = part
        if mode == "custom":
            if text := self._answer.take(data):
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
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


def _result(state: dict[str, Any]) -> ChatResult:
    message: AIMessage = state["messages"][-1].model_copy(update={"id": None})
    return ChatResult(generations=[ChatGeneration(message=message)])
