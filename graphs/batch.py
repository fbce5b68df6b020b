"""Answers a list of questions concurrently; each answer is stored as soon as it is complete.

START → begin ─┬─ answer ─┬→ END
               ├─ answer ─┤
               └─ answer ─┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Overwrite, Send

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.errors import (
    ArbitrageError,
    CheckpointError,
    EngineClosedError,
    SettingsError,
)
from langgraph_arbitrage.nodes.binding import Chat, chat_node

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BatchAnswer", "BatchState", "create_batch_graph"]


class BatchAnswer(TypedDict):
    """The result for one question."""

    index: int
    question: str
    message: AIMessage | None
    """The answer; None if there is an error."""
    error: str | None
    """Why there is no answer; None if there is one."""


def _in_order(left: list[BatchAnswer], right: list[BatchAnswer]) -> list[BatchAnswer]:
    return sorted([*left, *right], key=lambda answer: answer["index"])


class BatchInput(TypedDict):
    """Input of a run."""

    questions: list[str]


class BatchState(TypedDict, total=False):
    """State of the graph."""

    questions: list[str]
    answers: Annotated[list[BatchAnswer], _in_order]
    """One per question, in order."""


class _Task(TypedDict):
    index: int
    question: str


class _Limited(StateGraph[BatchState, Context, BatchInput, BatchState]):
    """Bounds the nodes that run at a time, unless a run's config sets `max_concurrency`."""

    max_concurrency: int

    def compile(self, *args: Any, **options: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
        graph = super().compile(*args, **options)
        return graph.with_config({"max_concurrency": self.max_concurrency})


def create_batch_graph(
    llm: ChatArbitrage | None = None, /, *, concurrency: int = 16, **settings: Any
) -> StateGraph[BatchState, Context, BatchInput, BatchState]:
    """Answers a list of questions, as an uncompiled graph.

    Each question is a task (LangGraph's `Send`). With a checkpointer, each answer is stored when it
    is complete, and a resumed run asks only the remaining questions. A question that cannot be
    answered has an `error` and does not stop the others. Use `langgraph_arbitrage.batch` for files
    of questions.

    Args:
        llm: The chat model; created from the settings by default.
        concurrency: Maximum questions at a time; `max_concurrency` of a run's config overrides it.
        settings: Fields of `ArbitrageSettings`.

    Example:
        >>> from langgraph_arbitrage.graphs import create_batch_graph
        >>> graph = create_batch_graph(concurrency=4, max_tokens=100).compile()
        >>> state = graph.invoke({"questions": ["What is 2 + 3?", " ", "What is 30 + 4?"]})
        >>> [(answer["index"], answer["error"] is None) for answer in state["answers"]]
        [(0, True), (1, False), (2, True)]

    Raises:
        SettingsError: A setting is unknown or outside its range.
    """
    if concurrency < 1:
        raise SettingsError(f"concurrency must be at least 1, not {concurrency}")
    from langgraph_arbitrage.chat_model import ChatArbitrage

    llm = llm or ChatArbitrage(**settings)

    def begin(state: BatchState) -> dict[str, Any]:
        questions: Any = state.get("questions")
        given = questions if isinstance(questions, list) else []
        if not given or not all(isinstance(question, str) for question in given):
            raise SettingsError(f"questions must be a non-empty list of strings, not {questions!r}")
        return {"answers": Overwrite([])}

    def fan_out(state: BatchState) -> list[Send]:
        return [
            Send("answer", _Task(index=i, question=q)) for i, q in enumerate(state["questions"])
        ]

    async def answer(task: _Task, chat: Chat) -> dict[str, Any]:
        message = error = None
        try:
            message = await chat.ask(llm, [HumanMessage(task["question"])])
        except (CheckpointError, EngineClosedError):
            raise  # every question would fail like this
        except ArbitrageError as failure:
            error = str(failure)
        return {"answers": [BatchAnswer(**task, message=message, error=error)]}

    graph = _Limited(BatchState, context_schema=Context, input_schema=BatchInput)
    graph.max_concurrency = concurrency
    graph.add_node("begin", begin)
    graph.add_node("answer", chat_node(answer, "answer"), input_schema=_Task)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", fan_out, ["answer"])
    graph.add_edge("answer", END)
    return graph
