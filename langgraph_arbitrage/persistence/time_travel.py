"""Lists, resumes, rewinds and forks stored threads by step.

The functions wrap LangGraph's checkpoints and `update_state`. Each takes a compiled graph of
`create_arbitrage_graph` with a checkpointer and a config that names a thread; each has an async
twin. Nothing is deleted: rewound steps remain in `graph.get_state_history`.

Example:
    >>> from langgraph.checkpoint.memory import InMemorySaver
    >>> from langgraph_arbitrage import Context, create_arbitrage_graph
    >>> from langgraph_arbitrage.persistence.time_travel import fork, list_steps, rewind
    >>> graph = create_arbitrage_graph(max_tokens=200).compile(checkpointer=InMemorySaver())
    >>> one = {"configurable": {"thread_id": "one"}}
    >>> state = graph.invoke({"messages": [("user", "Ann has 3 and buys 4. How many?")]}, one)
    >>> len(list_steps(graph, one)) == len(state["steps"])
    True
    >>> two = fork(graph, one, 0, thread="two")
    >>> other = graph.invoke(None, two, context=Context(threshold=0.0))
    >>> {step["writer"] for step in other["steps"]}
    {'target'}
    >>> again = graph.invoke(None, rewind(graph, one, 0))
    >>> again["messages"][-1].text == state["messages"][-1].text
    True

To continue with another policy, compile a graph with `router=` and the same checkpointer, and pass
it to `rewind` or `fork` and to `invoke`.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Overwrite, StateSnapshot

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.errors import ThreadError
from langgraph_arbitrage.loop.answer_state import is_finished, steps_of
from langgraph_arbitrage.loop.engine_calls import run_blocking
from langgraph_arbitrage.persistence.migrate import check_version
from langgraph_arbitrage.state import ArbitrageState, StepRecord

__all__ = [
    "afork",
    "alist_steps",
    "aresume",
    "arewind",
    "fork",
    "list_steps",
    "resume",
    "rewind",
]

Graph = CompiledStateGraph[Any, Any, Any, Any]


def list_steps(graph: Graph, config: RunnableConfig) -> list[StepRecord]:
    """Return the committed steps of a thread's last answer.

    Raises:
        ThreadError: The thread does not exist, or another version wrote it.
    """
    return run_blocking(_list_steps(_Store(graph, blocking=True), config))


async def alist_steps(graph: Graph, config: RunnableConfig) -> list[StepRecord]:
    """Return the committed steps of a thread's last answer, on the event loop."""
    return await _list_steps(_Store(graph, blocking=False), config)


def resume(
    graph: Graph, config: RunnableConfig, context: Context | None = None
) -> ArbitrageState | dict[str, Any]:
    """Continue a thread after its last committed step, also after a crash of its process.

    Returns:
        The final state, as `graph.invoke` returns it. A finished thread's state is returned as it
        is: its `finish_reason` says why it ended, its last message is the answer.

    Raises:
        ThreadError: The thread does not exist, or another version wrote it.
        OtherModelsError: Other models wrote it, and `Context.other_models` is False.
    """
    return run_blocking(_resume(_Store(graph, blocking=True), config, context))


async def aresume(
    graph: Graph, config: RunnableConfig, context: Context | None = None
) -> ArbitrageState | dict[str, Any]:
    """Continue a thread after its last committed step, on the event loop."""
    return await _resume(_Store(graph, blocking=False), config, context)


def rewind(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """Return a thread to the point before step `step` was written.

    Args:
        graph: The compiled graph.
        config: Names the thread.
        step: Index of a step of its last answer, from 0. This step and all later ones are undone.
        text: A text that replaces step `step`.
        seed: Another seed for sampling the following steps.

    Returns:
        A config to continue with: `graph.invoke(None, config, context=Context(...))`.

    Raises:
        ThreadError: The thread or the step does not exist, or another version wrote it.
    """
    return run_blocking(_rewind(_Store(graph, blocking=True), config, step, text, seed))


async def arewind(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """Return a thread to the point before step `step` was written, on the event loop."""
    return await _rewind(_Store(graph, blocking=False), config, step, text, seed)


def fork(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    thread: str,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """Start another thread with the steps before step `step`; the original is unchanged.

    The models find the shared steps in their KV caches, so that only the following ones cost time.

    Args:
        graph: The compiled graph.
        config: Names the thread to fork.
        step: Index of a step of its last answer, from 0: the first one that is not copied.
        thread: Id of the new thread.
        text: A text that replaces step `step`.
        seed: Another seed for sampling the following steps.

    Returns:
        The new thread's config, to continue with: `graph.invoke(None, config)`.

    Raises:
        ThreadError: The thread or the step does not exist, another version wrote it, or the new
            thread exists already.
    """
    return run_blocking(_fork(_Store(graph, blocking=True), config, step, thread, text, seed))


async def afork(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    thread: str,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """Start another thread with the steps before step `step`, on the event loop."""
    return await _fork(_Store(graph, blocking=False), config, step, thread, text, seed)


# --- one body for sync and async ---------------------------------------------------------


class _Store:
    """Calls the graph's checkpoint methods, synchronous or asynchronous.

    In a synchronous call, the coroutines never suspend.
    """

    def __init__(self, graph: Graph, *, blocking: bool) -> None:
        self._graph = graph
        self._blocking = blocking

    async def snapshot(self, config: RunnableConfig) -> StateSnapshot:
        """Return the newest state of a thread, with empty values if the thread does not exist."""
        if self._blocking:
            return self._graph.get_state(config)
        return await self._graph.aget_state(config)

    async def update(self, config: RunnableConfig, values: dict[str, Any]) -> None:
        """Store a state. The run continues from it at the node `prepare`."""
        values = {**values, "next_node": "prepare"}
        if self._blocking:
            self._graph.update_state(config, values, "commit")
        else:
            await self._graph.aupdate_state(config, values, "commit")

    async def run(self, config: RunnableConfig, context: Context | None) -> Any:
        """Run the graph from its stored state."""
        if self._blocking:
            return self._graph.invoke(None, config, context=context)
        return await self._graph.ainvoke(None, config, context=context)


async def _list_steps(store: _Store, config: RunnableConfig) -> list[StepRecord]:
    return steps_of(await _values(store, config))


async def _resume(
    store: _Store, config: RunnableConfig, context: Context | None
) -> ArbitrageState | dict[str, Any]:
    snapshot = await _snapshot(store, config)
    # If a process is killed while it stores its last node, the state has no next node and no end.
    if not snapshot.next and is_finished(snapshot.values):
        return snapshot.values
    state: ArbitrageState = await store.run(_head(config), context)
    return state


async def _rewind(
    store: _Store, config: RunnableConfig, step: int, text: str | None, seed: int | None
) -> RunnableConfig:
    before = await _values(store, config)
    values = _rewound(before, step, text, seed, config)
    update = {k: values[k] for k in ("draft_step", "target_step", "decision", "finish_reason")}
    removed = before["messages"][len(values["messages"]) :]
    update |= {
        "steps": Overwrite(values["steps"]),
        "seed": values["seed"],
        "messages": [RemoveMessage(m.id) for m in removed],
    }
    await store.update(config, update)
    return _head(config)


async def _fork(
    store: _Store,
    config: RunnableConfig,
    step: int,
    thread: str,
    text: str | None,
    seed: int | None,
) -> RunnableConfig:
    values = _rewound(await _values(store, config), step, text, seed, config)
    head = _head(config)
    new: RunnableConfig = {**head, "configurable": {**head["configurable"], "thread_id": thread}}
    if (await store.snapshot(new)).values:
        raise ThreadError(f"thread {thread!r} exists already: choose another id for the fork")
    await store.update(new, values)
    return new


async def _snapshot(store: _Store, config: RunnableConfig) -> StateSnapshot:
    thread = config.get("configurable", {}).get("thread_id")
    if thread is None:
        raise ThreadError(
            'the config does not name a thread: pass {"configurable": {"thread_id": "..."}}'
        )
    snapshot = await store.snapshot(config)
    if not snapshot.values:
        raise ThreadError(
            f"thread {thread!r} does not exist in this checkpointer: check the id, or start it "
            "with graph.invoke and the same config"
        )
    check_version(snapshot.values)
    return snapshot


async def _values(store: _Store, config: RunnableConfig) -> dict[str, Any]:
    return (await _snapshot(store, config)).values


def _rewound(
    values: dict[str, Any], step: int, text: str | None, seed: int | None, config: RunnableConfig
) -> dict[str, Any]:
    """Return the state before a step was written, optionally with a text in place of the step."""
    steps = steps_of(values)
    thread = config["configurable"]["thread_id"]
    if type(step) is not int or not 0 <= step < len(steps):  # True is not an index
        existing = f"steps 0 to {len(steps) - 1}" if steps else "no steps yet"
        raise ThreadError(f"thread {thread!r} has no step {step!r}: it has {existing}")
    if text is not None and not text.strip():
        raise ThreadError(f"step {step} cannot be replaced by an empty text")
    return {
        **values,
        "messages": values["messages"][:-1] if is_finished(values) else values["messages"],
        "steps": steps[:step] + ([] if text is None else [_edited_step(text)]),
        "seed": values["seed"] if seed is None else seed,
        "draft_step": None,
        "target_step": None,
        "decision": None,
        "finish_reason": None,
    }


def _edited_step(text: str) -> StepRecord:
    """Build a human's step without token ids. The run encodes it with its tokenizers."""
    return StepRecord(
        writer="human",
        text=text,
        ids=[],
        score=None,
        policy_state=[],
        seconds=0.0,
        writer_seconds=0.0,
        discarded_tokens=0,
        computed_tokens={},
        cached_tokens=0,
        accepted_draft_tokens=0,
        logprobs=[],
    )


def _head(config: RunnableConfig) -> RunnableConfig:
    """Return the config of the thread's newest state."""
    named = config["configurable"]
    old = ("checkpoint_id", "checkpoint_map")
    return {**config, "configurable": {k: v for k, v in named.items() if k not in old}}
