"""Best of n: samples several answers to one question; a vote or a PRM chooses one.

START → begin ─┬─ sample ─┬→ choose → END
               ├─ sample ─┤
               └─ sample ─┘
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.messages.ai import add_usage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite, Send

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.data.answer_extraction import final_answer
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.nodes.binding import Chat, chat_node
from langgraph_arbitrage.prompts.messages import last_question
from langgraph_arbitrage.state import MessagesInput

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BestOfNState", "Trace", "Vote", "create_best_of_n_graph", "elected"]

Vote = Literal["majority", "prm", "weighted"]
"""`majority`: the most frequent final answer. `prm`: the trace with the best PRM score. `weighted`:
the final answer whose traces have the largest sum of scores."""
VOTES: tuple[Vote, ...] = ("majority", "prm", "weighted")


class Trace(TypedDict):
    """One of the n answers."""

    index: int
    answer: str
    r"""Final answer: the content of the last `\boxed{}`, else the last number."""
    score: float | None
    """PRM score of the answer's worst step; None without a PRM."""
    message: AIMessage


def _gathered(left: list[Trace], right: list[Trace]) -> list[Trace]:
    return sorted([*left, *right], key=lambda trace: trace["index"])


class BestOfNState(TypedDict, total=False):
    """State of the graph."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation; the chosen answer is appended."""
    traces: Annotated[list[Trace], _gathered]
    """All answers to the last question."""
    seed: int


class _Sample(TypedDict):
    messages: list[AnyMessage]
    index: int
    seed: int


def create_best_of_n_graph(
    llm: ChatArbitrage | None = None,
    /,
    *,
    n: int = 8,
    prm: str | None = None,
    vote: Vote | None = None,
    **settings: Any,
) -> StateGraph[BestOfNState, Context, MessagesInput, BestOfNState]:
    r"""Samples n answers and chooses the best one, as an uncompiled graph.

    The answers are sampled concurrently (LangGraph's `Send`), each with its own seed; the prompt is
    computed once. The chosen answer is appended to the messages, with
    `response_metadata["best_of_n"]` = {`n`, `vote`, `chosen`, `answers`: {final answer: count}} and
    the usage of all of them. The final answer of a trace is the content of its last `\boxed{}`,
    else its last number.

    Args:
        llm: The chat model; created from the settings by default.
        n: Number of answers.
        prm: Process reward model that scores their steps. An answer's score is its worst step's.
        vote: `majority`, `prm` or `weighted`. Default: weighted with a PRM, else majority.
        settings: Fields of `ArbitrageSettings`. The default temperature is 0.7.

    Example:
        >>> from langgraph_arbitrage.graphs import create_best_of_n_graph
        >>> graph = create_best_of_n_graph(n=3, max_tokens=200, seed=1).compile()
        >>> state = graph.invoke({"messages": [("user", "What is 2 + 3?")]})
        >>> len(state["traces"]), state["messages"][-1].response_metadata["best_of_n"]["n"]
        (3, 3)

    Raises:
        SettingsError: A setting is unknown or outside its range.
        CheckpointError: The checkpoint is not a PRM of a known format.
    """
    vote = vote or ("weighted" if prm else "majority")
    if n < 1:
        raise SettingsError(f"n must be at least 1, not {n}")
    if vote not in VOTES:
        raise SettingsError(f"vote must be {', '.join(VOTES)}, not {vote!r}")
    if prm and vote == "majority":
        raise SettingsError(f"vote='majority' does not use prm={prm!r}: leave one of them out")
    if not prm and vote != "majority":
        raise SettingsError(f"vote={vote!r} needs the scores of a PRM: pass prm=")
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.graphs.answer_scores import AnswerScores

    llm = llm or ChatArbitrage(**{"temperature": 0.7} | settings)
    scores = AnswerScores(llm, prm) if prm else None

    def begin(state: BestOfNState) -> dict[str, Any]:
        seed = llm.seed if llm.seed is not None else random.SystemRandom().getrandbits(32)
        return {"traces": Overwrite([]), "seed": seed}

    def samples(state: BestOfNState) -> list[Send]:
        return [
            Send("sample", _Sample(messages=state["messages"], index=i, seed=state["seed"] + i))
            for i in range(n)
        ]

    async def sample(task: _Sample, chat: Chat) -> dict[str, Any]:
        message = await chat.ask(llm, task["messages"], seed=task["seed"])
        score = None
        if scores is not None:
            score = min(await scores.score(last_question(task["messages"]), message, chat))
        trace = Trace(
            index=task["index"], answer=final_answer(message.text), score=score, message=message
        )
        return {"traces": [trace]}

    def choose(state: BestOfNState) -> dict[str, Any]:
        traces = state["traces"]
        chosen = elected(traces, vote)
        usage = None
        for trace in traces:
            usage = add_usage(usage, trace["message"].usage_metadata)
        statistics = {"n": n, "vote": vote, "chosen": chosen["index"], "answers": _counts(traces)}
        message = chosen["message"]
        metadata = {**message.response_metadata, "best_of_n": statistics}
        update = {"response_metadata": metadata, "usage_metadata": usage, "id": None}
        return {"messages": [message.model_copy(update=update)]}

    graph = StateGraph(BestOfNState, context_schema=Context, input_schema=MessagesInput)
    graph.add_node("begin", begin)
    graph.add_node("sample", chat_node(sample, "sample"), input_schema=_Sample)
    graph.add_node("choose", choose)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", samples, ["sample"])
    graph.add_edge("sample", "choose")
    graph.add_edge("choose", END)
    return graph


def elected(traces: Sequence[Trace], vote: Vote) -> Trace:
    """The winning trace. Ties go to the better score, then to the first.

    Example:
        >>> texts = ["5", "6", "5"]
        >>> traces = [Trace(index=i, answer=t, score=s, message=None)
        ...           for i, (t, s) in enumerate(zip(texts, [0.2, 0.9, 0.3]))]
        >>> [elected(traces, vote)["index"] for vote in ("majority", "prm", "weighted")]
        [2, 1, 1]
    """
    weights: Mapping[str, float] = defaultdict(float)
    for trace in traces:
        weights[trace["answer"]] += 1 if vote == "majority" else _score(trace)  # type: ignore[index]
    if vote == "prm":
        return max(traces, key=_score)
    return max(traces, key=lambda trace: (weights[trace["answer"]], _score(trace)))


def _score(trace: Trace) -> float:
    return trace["score"] or 0.0


def _counts(traces: Sequence[Trace]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for trace in traces:
        counts[trace["answer"]] += 1
    return dict(counts)
