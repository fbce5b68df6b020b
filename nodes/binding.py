"""Converts node bodies to graph nodes for both `invoke` and `ainvoke`.

A body is one coroutine. In an asynchronous run, LangGraph would run a synchronous function on a
small thread pool, which would limit the number of concurrent answers. So a node has a synchronous
and an asynchronous function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.runtime import get_runtime
from langgraph.types import Overwrite

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.loop.engine_calls import EngineCall, run_blocking, submit, submit_async
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.persistence.migrate import apply_update, migrate
from langgraph_arbitrage.state import ArbitrageState

__all__ = ["Chat", "chat_node", "loop_node"]

Update = dict[str, Any]
NodeFunction = Callable[[Any, RunnableConfig], Any]
LoopBody = Callable[[ArbitrageState, Run], Coroutine[Any, Any, Update]]


class Node(Runnable[Any, Update]):
    """A synchronous and an asynchronous function as one node.

    langchain-core's `RunnableLambda` does the same, but adds a second traced run to each node. This
    costs 0.16 ms per node, and every node appears twice in a trace.
    """

    def __init__(self, name: str, function: NodeFunction, async_function: NodeFunction) -> None:
        self.name = name
        self._function = function
        self._async_function = async_function

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Update:  # noqa: A002
        """Run the synchronous function."""
        update: Update = self._function(input, config or {})
        return update

    async def ainvoke(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Update:
        """Run the asynchronous function."""
        update: Update = await self._async_function(input, config or {})
        return update


def loop_node(body: LoopBody, models: Models) -> Node:
    """Create a node of the reasoning graph.

    Since a run may be resumed at any node, each node first adapts the state to the run's models.
    """

    async def complete(state: ArbitrageState, run: Run) -> Update:
        run.start_clock(state)
        if body.__name__ == "prepare":
            return await body(state, run)
        migration = migrate(state, run)
        update = await body(apply_update(state, migration), run)
        if "steps" in migration and "steps" in update:
            update["steps"] = Overwrite([*migration["steps"].value, *update["steps"]])
        return {**migration, **update}

    def sync_node(state: ArbitrageState, config: RunnableConfig) -> Update:
        return run_blocking(complete(state, Run.of_node(models, blocking=True)))

    async def async_node(state: ArbitrageState, config: RunnableConfig) -> Update:
        run = Run.of_node(models, blocking=False)
        if not models.ready:
            await asyncio.to_thread(models.prepare, run.policy)
        return await complete(state, run)

    return Node(body.__name__, sync_node, async_node)


class Chat:
    """Calls of the chat model and the engines from nodes of a graph around the chat model."""

    def __init__(self, config: RunnableConfig, *, blocking: bool) -> None:
        # Keeps intermediate answers off the graph's message stream.
        self._config = merge_configs(config, {"tags": [TAG_NOSTREAM]})
        self._blocking = blocking

    async def ask(
        self, llm: BaseChatModel, messages: Sequence[BaseMessage], **options: Any
    ) -> AIMessage:
        """Return the chat model's answer, under the settings of the run's context.

        Args:
            llm: The chat model.
            messages: The conversation.
            options: Settings of this call. They override those of the context.
        """
        context: Any = get_runtime(Context).context
        options = (context.overrides if isinstance(context, Context) else {}) | options
        if self._blocking:
            return llm.invoke(list(messages), self._config, **options)
        return await llm.ainvoke(list(messages), self._config, **options)

    async def submit(self, calls: Sequence[EngineCall]) -> list[Any]:
        """Submit requests to engines and wait for all outputs."""
        return submit(calls) if self._blocking else await submit_async(calls)


ChatBody = Callable[[Any, Chat], Coroutine[Any, Any, Update]]


def chat_node(body: ChatBody, name: str) -> Node:
    """Create a node of a graph around the chat model."""

    def sync_node(state: Mapping[str, Any], config: RunnableConfig) -> Update:
        return run_blocking(body(state, Chat(config, blocking=True)))

    async def async_node(state: Mapping[str, Any], config: RunnableConfig) -> Update:
        return await body(state, Chat(config, blocking=False))

    return Node(name, sync_node, async_node)
