"""The chat model: the reasoning graph behind LangChain's interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph
from pydantic import ConfigDict, model_validator

from langgraph_arbitrage.chat_model.invocation import Invocation
from langgraph_arbitrage.chat_model.profile import PROVIDER, profile_of
from langgraph_arbitrage.config.run_options import MAX_TOKENS
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.embedded.notice import warn_once
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.prompts.messages import template_messages
from langgraph_arbitrage.tools.response_format import ResponseFormat
from langgraph_arbitrage.tools.schemas import offered_tools
from langgraph_arbitrage.tools.structured import structured

__all__ = ["ChatArbitrage"]

CACHED = ("_models", "_graph", "_resumable_graph", "_other_targets")
PROVIDER_SETTINGS = {"api_key", "base_url", "max_retries"}
"""Standard parameters of chat models that apply to a provider's server only."""


class ChatArbitrage(ArbitrageSettings, BaseChatModel):
    """A chat model that reasons with two models: a draft writes, a target rewrites what pays.

    Without arguments it runs the embedded demo models, which solve generated word problems. With
    your own two models and no router, a step is escalated if the target finds it improbable.

    Models load at the first answer. They are shared by all users in the process with the same
    checkpoints and settings; `close()` releases them.

    Example:
        >>> from langgraph_arbitrage import ChatArbitrage
        >>> llm = ChatArbitrage(max_tokens=200)
        >>> question = "Ann has 34 apples. She buys 58. How many apples are there in the end?"
        >>> message = llm.invoke(question)
        >>> statistics = message.response_metadata["arbitrage"]
        >>> message.text == "".join(step["text"] for step in statistics["steps"])
        True

    Raises:
        SettingsError: A setting is unknown or outside its range (at construction).
        CheckpointError: A model cannot be loaded (at the first answer, before any work).
        MessageError: The conversation is empty or holds content that no text model can read.
        ContextLengthError: The conversation does not fit a model's context.
    """

    model_config = ConfigDict(extra="forbid")

    streaming: bool = False
    """Let `invoke` stream too, so that callbacks receive each token."""

    @classmethod
    def _accepted_names(cls) -> set[str]:
        return super()._accepted_names() | PROVIDER_SETTINGS

    @model_validator(mode="before")
    @classmethod
    def _drop_provider_settings(cls, values: Any) -> Any:
        """Drop LangChain's standard parameters that do not apply to a local model."""
        return {n: v for n, v in values.items() if n not in PROVIDER_SETTINGS}

    def prepare(self) -> None:
        """Check the checkpoints and load the tokenizers now instead of at the first answer.

        Raises:
            CheckpointError: A model cannot be used.
            SettingsError: The policy does not fit the pair.
        """
        self._models.prepare(self.policy)

    def close(self) -> None:
        """Release the models. Those without another user are unloaded."""
        self._models.close()
        for other in self._other_targets.values():
            other.close()
        self._other_targets.clear()

    # Engines cannot be copied, so the copy acquires them again.
    def __copy__(self) -> Self:
        copied = super().__copy__()
        for name in CACHED:
            copied.__dict__.pop(name, None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        bare = self.__copy__()
        return super(ChatArbitrage, bare).__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = {k: v for k, v in state["__dict__"].items() if k not in CACHED}
        return {**state, "__dict__": fields}

    # --- LangChain's description of a model ----------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "langgraph-arbitrage"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = (n for n in ArbitrageSettings.model_fields if n not in ("router", "threshold"))
        return {name: getattr(self, name) for name in fields} | {"policy": repr(self.policy)}

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self.target, self.max_tokens or MAX_TOKENS)

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
        """Return the token ids of a text in the target's vocabulary."""
        return self._models.tokenizer("target").encode(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Count the target's prompt tokens of these messages, including its chat template.

        Any part of a conversation can be counted, as `trim_messages` does.
        """
        if not messages:
            return 0
        response_format = ResponseFormat.of(tools)
        template = self._models.template("target", self)
        prompt = template.render(
            template_messages(messages),
            response_format.tools,
            special_tokens_in_text=self.special_tokens_in_text,
        )
        return len(prompt)

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
        """Return a model that may call tools.

        Args:
            tools: Functions, tools, pydantic classes or JSON schemas.
            tool_choice: `auto` (the model decides), `any` (it must call one), `none`, or the name
                of the tool that it must call. A forced call is decoded under a grammar, so that it
                fits its schema; this needs the extra `structured`.
            parallel_tool_calls: Whether an answer may hold several calls. By default the model
                decides, and makes one call if a call is forced.
            strict: Whether optional calls are decoded under their schema's grammar too. By default
                they are if the extra is installed and the model marks calls with a token of its
                own, as most do.
            kwargs: Further options of the call.

        Raises:
            SettingsError: A tool cannot be offered, or the choice names none of them.
            GrammarError: A schema is too large.
        """
        response_format = ResponseFormat.of(offered_tools(tools, strict=strict), tool_choice)
        choice = "none" if tools and not response_format.tools else response_format.choice
        bound: dict[str, Any] = {"tools": [dict(tool) for tool in response_format.tools]}
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
        """Return a model whose answers fit a schema. They are decoded under its grammar.

        Args:
            schema: A pydantic class, a typed dict, a JSON schema or an OpenAI function.
            method: `json_schema` puts the schema into the prompt. `function_calling` forces a call
                of a tool with that schema. `json_mode` leaves the prompt to you. The answer fits
                the schema with each of them.
            include_raw: Return the message and any parsing error beside the parsed object.
            strict: Whether objects may hold only properties that their schema names.
            kwargs: Further options of the call.

        Raises:
            SettingsError: The schema or the method is unknown.
            GrammarError: The schema is too large.
        """
        return structured(
            self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs
        )

    # --- one graph for every call --------------------------------------------------------

    @cached_property
    def _models(self) -> Models:
        if not {"draft", "target"} & self.model_fields_set:
            warn_once()
        return Models(self)

    @cached_property
    def _other_targets(self) -> dict[str, Self]:
        """Copies of this chat model, by target, for calls that name another target."""
        return {}

    def _with_target(self, target: str | None) -> Self:
        if target is None or str(target) == self.target:
            return self
        if target not in self._other_targets:
            self._other_targets[target] = self.model_copy(update={"target": str(target)})
        return self._other_targets[target]

    @cached_property
    def _graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        # Otherwise a calling graph's checkpointer would store every inner step.
        return create_arbitrage_graph(self._models).compile(checkpointer=False)

    @cached_property
    def _resumable_graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        # While a human decides, the calling graph's checkpointer keeps the steps so far.
        return create_arbitrage_graph(self._models).compile()

    def _invocation(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
        *,
        streams: bool,
    ) -> tuple[Invocation, CompiledStateGraph[Any, Any, Any, Any]]:
        """Return the call and the graph that runs it."""
        call = Invocation.of(self._models, messages, stop, overrides, streams=streams)
        return call, self._graph if call.settings.approve is None else self._resumable_graph

    # --- complete answers ----------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._with_target(kwargs.get("model"))
        call, graph = model._invocation(messages, stop, kwargs, streams=False)
        answer = call.answer(_run(call, call.stream(graph, call.answer_modes)))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._with_target(kwargs.get("model"))
        call, graph = model._invocation(messages, stop, kwargs, streams=False)
        answer = await call.aanswer(_arun(call, call.astream(graph, call.answer_modes)))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    # --- streams -------------------------------------------------------------------------

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model = self._with_target(kwargs.get("model"))
        call, graph = model._invocation(messages, stop, kwargs, streams=True)
        convert = call.chunk_converter(blocks=self.output_version == "v1")
        for part in _run(call, call.stream(graph, call.chunk_modes)):
            for chunk in convert(part):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        model = self._with_target(kwargs.get("model"))
        call, graph = model._invocation(messages, stop, kwargs, streams=True)
        convert = call.chunk_converter(blocks=self.output_version == "v1")
        parts = _arun(call, call.astream(graph, call.chunk_modes))
        try:
            async for part in parts:
                for chunk in convert(part):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            await parts.aclose()


def _run(call: Invocation, parts: Iterator[Any]) -> Iterator[Any]:
    """Yield the parts of a run, which has its own context variables. Closing it cancels the run.

    On Ctrl-C, a LangGraph stream waits for the running node. So a run with listeners has its own
    thread: Ctrl-C interrupts the thread that waits for it, which then cancels the run. Without
    listeners, the nodes run in the caller's thread and are interrupted directly.
    """
    step = partial(call.variables.run, partial(next, parts, None))
    thread = ThreadPoolExecutor(1) if not call.context.quiet else None
    try:
        while (part := thread.submit(step).result() if thread else step()) is not None:
            yield part
    finally:
        call.context.cancel.cancel()
        if thread:
            thread.shutdown()
        call.variables.run(parts.close)  # type: ignore[attr-defined]


async def _arun(call: Invocation, parts: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """Yield the parts of a run on the event loop."""
    try:
        while True:
            step = anext(parts, None)
            part = await asyncio.create_task(step, context=call.variables)
            if part is None:
                return
            yield part
    finally:
        call.context.cancel.cancel()
        await parts.aclose()  # type: ignore[attr-defined]
