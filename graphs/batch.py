"""A list of questions, so many at a time, each stored as soon as it is answered.

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

from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import (
    ArbitrageError,
    CheckpointError,
    EngineClosedError,
    SettingsError,
)
from langgraph_arbitrage.nodes.talk import Question, Talk, TalkBody

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BatchAnswer", "BatchState", "create_batch_graph"]


class BatchAnswer(TypedDict):
    """What came of a question."""

    index: int
    question: str
    message: AIMessage | None
    """The answer; None where there is an error."""
    error: str | None
    """Why there is no answer."""


def _in_order(left: list[BatchAnswer], right: list[BatchAnswer]) -> list[BatchAnswer]:
    return sorted([*left, *right], key=lambda answer: answer["index"])


class BatchInput(TypedDict):
    """What a run starts from."""

    questions: list[str]


class BatchState(TypedDict, total=False):
    """What the graph knows."""

    questions: list[str]
    answers: Annotated[list[BatchAnswer], _in_order]
    """One for each question, in their order."""


class _Asked(TypedDict):
    index: int
    question: str


class _Limited(StateGraph[BatchState, Context, BatchInput, BatchState]):
    """A graph that runs so many nodes at a time, unless a run's config says otherwise."""

    max_concurrency: int

    def compile(self, *args: Any, **options: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
        graph = super().compile(*args, **options)
        return graph.with_config({"max_concurrency": self.max_concurrency})


def create_batch_graph(
    llm: ChatArbitrage | None = None, /, *, concurrency: int = 16, **settings: Any
) -> StateGraph[BatchState, Context, BatchInput, BatchState]:
    """Answers a list of questions, as an uncompiled graph.

    A question is a task of its own (LangGraph's `Send`): with a checkpointer each answer is stored
    when it is there, and a run that was killed asks only the others again. A question that cannot
    be answered has an `error` and does not stop the others. For files of questions there is
    `langgraph_arbitrage.batch`.

    Args:
        llm: Who answers; made from the settings where not given.
        concurrency: Most questions at a time; `max_concurrency` of a run's config goes before it.
        settings: Fields of `ArbitrageSettings`.

    Example:
        >>> from langgraph_arbitrage.graphs import create_batch_graph
        >>> graph = create_batch_graph(concurrency=4, max_tokens=100).compile()
        >>> state = graph.invoke({"questions": ["What is 2 + 3?", " ", "What is 30 + 4?"]})
        >>> [(answer["index"], answer["error"] is None) for answer in state["answers"]]
        [(0, True), (1, False), (2, True)]

    Raises:
        SettingsError: A setting is outside its range.
    """
    if concurrency < 1:
        raise SettingsError(f"concurrency must be at least 1, not {concurrency}")
    from langgraph_arbitrage.chat_model import ChatArbitrage

    llm = llm or ChatArbitrage(**settings)

    def begin(state: BatchState) -> TalkBody:
        yield ()
        questions: Any = state.get("questions")
        given = questions if isinstance(questions, list) else []
        if not given or not all(isinstance(question, str) for question in given):
            raise SettingsError(
                f"questions must be a list of texts that is not empty, not {questions!r}"
            )
        return {"answers": Overwrite([])}

    def fan_out(state: BatchState) -> list[Send]:
        return [
            Send("answer", _Asked(index=i, question=q)) for i, q in enumerate(state["questions"])
        ]

    def answer(asked: _Asked) -> TalkBody:
        message = error = None
        try:
            message = yield Question(llm, [HumanMessage(asked["question"])])
        except (CheckpointError, EngineClosedError):
            raise  # it would be the same for every question
        except ArbitrageError as failure:
            error = str(failure)
        return {"answers": [BatchAnswer(**asked, message=message, error=error)]}

    graph = _Limited(BatchState, context_schema=Context, input_schema=BatchInput)
    graph.max_concurrency = concurrency
    graph.add_node("begin", Talk(begin, "begin"))
    graph.add_node("answer", Talk(answer, "answer"), input_schema=_Asked)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", fan_out, ["answer"])
    graph.add_edge("answer", END)
    return graph
