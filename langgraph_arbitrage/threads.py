"""A stored run, step by step: list its steps, go on with it, go back in it, branch off from it.

Short names for LangGraph's own checkpoints and `update_state`. Each works on a compiled graph of
`create_arbitrage_graph` with a checkpointer, and a config that names a thread; each has an async
twin. Nothing is deleted: what a rewind leaves behind stays in `graph.get_state_history`.

Example:
    >>> from langgraph.checkpoint.memory import InMemorySaver
    >>> from langgraph_arbitrage import Context, create_arbitrage_graph
    >>> from langgraph_arbitrage.threads import fork, list_steps, rewind
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

Another policy is another graph: compile one with `router=` and the same checkpointer, and give it
to `rewind` or `fork` and to what follows.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeVar

from langchain_core.messages import RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Overwrite, StateSnapshot

from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import ThreadError
from langgraph_arbitrage.state import ArbitrageState, StepRecord

__all__ = [
    "afork",
    "alist_steps",
    "aresume",
    "arewind",
    "finished",
    "fork",
    "list_steps",
    "resume",
    "rewind",
    "steps_of",
]

Graph = CompiledStateGraph[Any, Any, Any, Any]
_T = TypeVar("_T")


class _Call(NamedTuple):
    """One of the graph's methods, sync or async as the driver has it."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


_Body = Generator[_Call, Any, _T]
"""Yields calls, is sent what they return."""


def list_steps(graph: Graph, config: RunnableConfig) -> list[StepRecord]:
    """The steps of a thread's last answer, as far as it is written.

    Raises:
        ThreadError: There is no such thread.
    """
    return _done(_list_steps(config), graph)


async def alist_steps(graph: Graph, config: RunnableConfig) -> list[StepRecord]:
    """`list_steps`, async."""
    return await _adone(_list_steps(config), graph)


def resume(
    graph: Graph, config: RunnableConfig, context: Context | None = None
) -> ArbitrageState | dict[str, Any]:
    """Go on with a thread from its last step, whatever ended the process that wrote it.

    Returns:
        The state at the end, as `graph.invoke` returns it. A finished thread's is returned as it
        is: its `finish_reason` says why it ended, its last message is the answer.

    Raises:
        ThreadError: There is no such thread.
        OtherModelsError: Other models wrote it, and the context does not say to go on.
    """
    return _done(_resume(config, context), graph)


async def aresume(
    graph: Graph, config: RunnableConfig, context: Context | None = None
) -> ArbitrageState | dict[str, Any]:
    """`resume`, async."""
    return await _adone(_resume(config, context), graph)


def rewind(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """Take a thread back to where step `step` was about to be written.

    Args:
        graph: The compiled graph.
        config: Names the thread.
        step: Index of a step of its last answer, from 0; that step and those after it go.
        text: A text of yours in the place of step `step`.
        seed: Another seed for sampling what follows.

    Returns:
        A config to go on with: `graph.invoke(None, config, context=Context(...))`.

    Raises:
        ThreadError: There is no such thread, or no such step in it.
    """
    return _done(_rewind(config, step, text, seed), graph)


async def arewind(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """`rewind`, async."""
    return await _adone(_rewind(config, step, text, seed), graph)


def fork(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    thread: str,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """Begin another thread with the steps before step `step`; the first one stays as it is.

    The models find those steps in their caches, so that only what follows is work.

    Args:
        graph: The compiled graph.
        config: Names the thread to branch off from.
        step: Index of a step of its last answer, from 0: the first one that is not taken along.
        thread: Id of the new thread.
        text: A text of yours in the place of step `step`.
        seed: Another seed for sampling what follows.

    Returns:
        The new thread's config, to go on with: `graph.invoke(None, config)`.

    Raises:
        ThreadError: There is no such thread or step, or the new thread is there already.
    """
    return _done(_fork(config, step, thread, text, seed), graph)


async def afork(
    graph: Graph,
    config: RunnableConfig,
    step: int,
    *,
    thread: str,
    text: str | None = None,
    seed: int | None = None,
) -> RunnableConfig:
    """`fork`, async."""
    return await _adone(_fork(config, step, thread, text, seed), graph)


def finished(values: Mapping[str, Any]) -> bool:
    """Whether the last message of a thread's state is a whole answer."""
    return values.get("finish_reason") is not None and values["messages"][-1].type == "ai"


def steps_of(values: Mapping[str, Any]) -> list[StepRecord]:
    """The steps of the last answer in a thread's state; none where it is not begun yet."""
    messages = values.get("messages") or []
    begun = messages and messages[-1].id == values.get("answers")
    return list(values.get("steps") or []) if begun or finished(values) else []


# --- one body for sync and async ---------------------------------------------------------


def _done(body: _Body[_T], graph: Graph) -> _T:
    try:
        call = next(body)
        while True:
            call = body.send(getattr(graph, call.method)(*call.args, **call.options))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _adone(body: _Body[_T], graph: Graph) -> _T:
    try:
        call = next(body)
        while True:
            call = body.send(await getattr(graph, f"a{call.method}")(*call.args, **call.options))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _list_steps(config: RunnableConfig) -> _Body[list[StepRecord]]:
    snapshot = yield from _snapshot(config)
    return steps_of(snapshot.values)


def _resume(config: RunnableConfig, context: Context | None) -> _Body[ArbitrageState]:
    snapshot = yield from _snapshot(config)
    # A process that was killed while it stored its last node leaves no next node and no end.
    if not snapshot.next and finished(snapshot.values):
        return snapshot.values  # type: ignore[return-value]
    state: ArbitrageState = yield _Call("invoke", (None, _head(config)), {"context": context})
    return state


def _rewind(
    config: RunnableConfig, step: int, text: str | None, seed: int | None
) -> _Body[RunnableConfig]:
    snapshot = yield from _snapshot(config)
    values = _until(snapshot.values, step, text, seed, config)
    update = {k: values[k] for k in ("draft_step", "target_step", "verdict", "finish_reason")}
    gone = snapshot.values["messages"][len(values["messages"]) :]
    update |= {
        "steps": Overwrite(values["steps"]),
        "seed": values["seed"],
        "messages": [RemoveMessage(m.id) for m in gone],
    }
    yield _Call("update_state", (config, update, "commit"))
    return _head(config)


def _fork(
    config: RunnableConfig, step: int, thread: str, text: str | None, seed: int | None
) -> _Body[RunnableConfig]:
    snapshot = yield from _snapshot(config)
    values = _until(snapshot.values, step, text, seed, config)
    head = _head(config)
    new: RunnableConfig = {**head, "configurable": {**head["configurable"], "thread_id": thread}}
    if (yield _Call("get_state", (new,))).values:
        raise ThreadError(f"thread {thread!r} is there already: choose another id for the fork")
    yield _Call("update_state", (new, values, "commit"))
    return new


def _snapshot(config: RunnableConfig) -> _Body[StateSnapshot]:
    thread = config.get("configurable", {}).get("thread_id")
    if thread is None:
        raise ThreadError('the config names no thread: give {"configurable": {"thread_id": "..."}}')
    snapshot: StateSnapshot = yield _Call("get_state", (config,))
    if not snapshot.values:
        raise ThreadError(
            f"there is no thread {thread!r} in this checkpointer: check the id, or begin it with "
            "graph.invoke and the same config"
        )
    return snapshot


def _until(
    values: dict[str, Any], step: int, text: str | None, seed: int | None, config: RunnableConfig
) -> dict[str, Any]:
    """The state before a step was written, with a text in its place where one is given."""
    steps = steps_of(values)
    thread = config["configurable"]["thread_id"]
    if type(step) is not int or not 0 <= step < len(steps):  # True is no index
        there = f"steps 0 to {len(steps) - 1}" if steps else "no step yet"
        raise ThreadError(f"thread {thread!r} has no step {step!r}: it has {there}")
    if text is not None and not text.strip():
        raise ThreadError(f"step {step} cannot be replaced by an empty text")
    return {
        **values,
        "messages": values["messages"][:-1] if finished(values) else values["messages"],
        "steps": steps[:step] + ([] if text is None else [_edited(text)]),
        "seed": values["seed"] if seed is None else seed,
        "draft_step": None,
        "target_step": None,
        "verdict": None,
        "finish_reason": None,
    }


def _edited(text: str) -> StepRecord:
    """A human's step. Its ids are left to the run, which has the tokenizers."""
    return StepRecord(
        writer="human",
        text=text,
        ids=[],
        score=None,
        memory=[],
        seconds=0.0,
        writer_seconds=0.0,
        discarded=0,
        forwarded={},
        cached=0,
        kept=0,
        logprobs=[],
    )


def _head(config: RunnableConfig) -> RunnableConfig:
    """The config of the thread's newest state, whichever state of it was named."""
    named = config["configurable"]
    old = ("checkpoint_id", "checkpoint_map")
    return {**config, "configurable": {k: v for k, v in named.items() if k not in old}}
