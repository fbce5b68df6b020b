"""The chat model: the state machine behind LangChain's interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import (
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph
from pydantic import ConfigDict, model_validator

from langgraph_arbitrage.answer import AnswerStream
from langgraph_arbitrage.call import Call
from langgraph_arbitrage.chunks import AnswerChunks
from langgraph_arbitrage.context import Context
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph
from langgraph_arbitrage.models.pair import Models, home
from langgraph_arbitrage.profile import PROVIDER, profile_of
from langgraph_arbitrage.prompts import check_conversation, template_messages
from langgraph_arbitrage.settings import ArbitrageSettings
from langgraph_arbitrage.tools.form import AnswerForm
from langgraph_arbitrage.tools.messages import ChunkWriter
from langgraph_arbitrage.tools.schemas import offered_tools
from langgraph_arbitrage.tools.structured import structured

__all__ = ["ChatArbitrage"]

PROVIDER_SETTINGS = {"api_key", "base_url", "max_retries"}
"""Standard parameters of chat models that concern a provider's server."""


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

    model_config = ConfigDict(extra="forbid")  # LangChain's own models ignore what they do not know

    streaming: bool = False
    """Let `invoke` stream too, so that callbacks hear of each token."""

    @model_validator(mode="before")
    @classmethod
    def _without_provider_settings(cls, values: Any) -> Any:
        """LangChain's standard parameters that say nothing to a local model are left out."""
        return {n: v for n, v in values.items() if n not in PROVIDER_SETTINGS}

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
        for other in self._others.values():
            other.close()
        self._others.clear()

    def __copy__(self) -> Self:
        copied = super().__copy__()
        # A copy is made to be changed: it gets its own.
        for cached in ("_models", "_graph", "_resumable_graph", "_others"):
            copied.__dict__.pop(cached, None)
        return copied

    # --- what LangChain asks of a model --------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "langgraph-arbitrage"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = (n for n in ArbitrageSettings.model_fields if n not in ("router", "threshold"))
        return {name: getattr(self, name) for name in fields} | {"policy": repr(self.policy)}

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self.target, self.max_tokens)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        shown = {n: kwargs.get(n, getattr(self, n)) for n in ("temperature", "max_tokens")}
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=str(kwargs.get("model") or self.target),
            ls_model_type="chat",
            ls_temperature=shown["temperature"],
            ls_max_tokens=shown["max_tokens"],
        )
        if stop or self.stop:
            params["ls_stop"] = list(stop or self.stop)
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, by the target's tokenizer."""
        return self._models.tokenizer("target").encode(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens that the target reads for these messages, its chat template's included."""
        form = Context(tools=tools).form
        check_conversation(messages)
        prompts = self._models.template("target").render(template_messages(messages), form.tools)
        return len(prompts)

    # --- tools and structured output -----------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        parallel_tool_calls: bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A model that may call tools.

        Args:
            tools: Functions, tools, pydantic classes or JSON schemas.
            tool_choice: `auto` (the model chooses), `any` (it has to call one), `none`, or the
                name of the one that it has to call. A call that has to be made is decoded under a
                grammar, so that it always fits its schema; this needs the extra `structured`.
            parallel_tool_calls: Whether an answer may hold several calls. By default the model
                chooses, and makes one where a call is demanded.
            strict: Whether a call is decoded under the grammar of its schema where the model may
                choose to make one. By default it is where the extra is installed and the model
                marks calls by a token of its own, as most do.
            kwargs: Further settings of the call.

        Raises:
            SettingsError: A tool cannot be offered, or the choice names none of them.
            GrammarError: A schema is too large.
        """
        form = AnswerForm.of(offered_tools(tools, strict=strict), tool_choice)
        choice = "none" if tools and not form.tools else form.choice
        bound: dict[str, Any] = {"tools": [dict(tool) for tool in form.tools]}
        if choice != "auto":
            bound["tool_choice"] = choice
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**bound, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A model whose answers fit a schema, by decoding under its grammar.

        Args:
            schema: A pydantic class, a typed dict, a JSON schema or an OpenAI function.
            method: `json_schema` tells the model the schema; `function_calling` has it call a tool
                of that form; `json_mode` leaves it to the prompt to say what is wanted. The answer
                fits the schema with each of them.
            include_raw: Return the message and any parsing error beside what was parsed.
            strict: Whether objects may hold nothing that their schema does not name.
            kwargs: Further settings of the call.

        Raises:
            SettingsError: The schema or the method is none that is known.
            GrammarError: The schema is too large.
        """
        return structured(
            self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs
        )

    # --- one graph for every call --------------------------------------------------------

    @cached_property
    def _models(self) -> Models:
        return Models(self)

    @cached_property
    def _others(self) -> dict[str, Self]:
        """The same model with other targets, for calls that name one."""
        return {}

    def _with_target(self, target: str | None) -> Self:
        if target is None or str(target) == self.target:
            return self
        if target not in self._others:
            self._others[target] = self.model_copy(update={"target": str(target)})
        return self._others[target]

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
        whole: bool,
    ) -> tuple[Call, CompiledStateGraph[Any, Any, Any, Any]]:
        """A call, and the graph that answers it."""
        call = Call.of(messages, stop, overrides, self._models.limits, whole=whole)
        return call, self._graph if call.limits.approve is None else self._resumable_graph

    # --- whole answers: the stream, collected ---------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._parts(messages, stop, None, kwargs, whole=True))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._aparts(messages, stop, None, kwargs, whole=True))

    # --- streams -------------------------------------------------------------------------

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from self._parts(messages, stop, run_manager, kwargs)

    def _parts(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        overrides: dict[str, Any],
        *,
        whole: bool = False,
    ) -> Iterator[ChatGenerationChunk]:
        """The chunks of an answer; those of a `whole` one need not come token by token."""
        if (other := self._with_target(overrides.get("model"))) is not self:
            yield from other._parts(messages, stop, run_manager, overrides, whole=whole)
            return
        call, graph = self._call(messages, stop, overrides, whole)
        parts = call.parts(graph)
        chunks = self._chunks(call)
        # LangGraph, interrupted while it streams, waits for the node that runs. On a thread of its
        # own it is not interrupted: Ctrl-C reaches the thread that waits here, and cancels. Nodes
        # of a quiet run are on this thread, and cancel what they wait for.
        beside = None if call.context.quiet else ThreadPoolExecutor(1)
        step = partial(call.variables.run, partial(next, parts, None))
        try:
            while (part := beside.submit(step).result() if beside else step()) is not None:
                for chunk in chunks.take(part):
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            call.context.cancel.cancel()
            if beside:
                beside.shutdown()
            call.variables.run(parts.close)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self._aparts(messages, stop, run_manager, kwargs):
            yield chunk

    async def _aparts(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        overrides: dict[str, Any],
        *,
        whole: bool = False,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """The same, waiting on the event loop."""
        if (other := self._with_target(overrides.get("model"))) is not self:
            async for chunk in other._aparts(messages, stop, run_manager, overrides, whole=whole):
                yield chunk
            return
        call, graph = self._call(messages, stop, overrides, whole)
        parts = call.aparts(graph)
        chunks = self._chunks(call)
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

    def _chunks(self, call: Call) -> AnswerChunks:
        return AnswerChunks(
            AnswerStream(call.limits.stop, self.separator),
            ChunkWriter(blocks=self.output_version == "v1"),
            lambda writer: self._models.parser(
                [home(writer), *self._models.roles(call.limits.policy)], call.context.form.tools
            ),
            call.tell,
        )
