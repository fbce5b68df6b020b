"""Best of n: many answers to one question at a time, and a vote or a PRM chooses.

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

from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.final_answer import final_answer
from langgraph_arbitrage.nodes.talk import Question, Talk, TalkBody
from langgraph_arbitrage.prompts import last_question
from langgraph_arbitrage.state import MessagesInput

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["BestOfNState", "Trace", "Vote", "create_best_of_n_graph", "elected"]

Vote = Literal["majority", "prm", "weighted"]
"""`majority`: the most frequent final answer; `prm`: the trace that the PRM finds best; `weighted`:
the final answer with the largest sum of its traces' scores."""
VOTES: tuple[Vote, ...] = ("majority", "prm", "weighted")


class Trace(TypedDict):
    """One of the n answers."""

    index: int
    answer: str
    r"""Its final answer: what is boxed, else the last number."""
    score: float | None
    """The PRM's score of its worst step; None without a PRM."""
    message: AIMessage


def _gathered(left: list[Trace], right: list[Trace]) -> list[Trace]:
    return sorted([*left, *right], key=lambda trace: trace["index"])


class BestOfNState(TypedDict, total=False):
    """What the graph knows."""

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
    r"""Many arbitraged answers, the best one chosen, as an uncompiled graph.

    The answers are sampled at a time (LangGraph's `Send`), each with its own seed; the question is
    read once. The chosen one is appended to the messages, with
    `response_metadata["best_of_n"]` = {`n`, `vote`, `chosen`, `answers`: {final answer: how many}}
    and the usage of all of them. The final answer of a trace is what is in its last `\boxed{}`,
    else its last number.

    Args:
        llm: Who answers; made from the settings where not given.
        n: How many answers.
        prm: Process reward model that scores their steps; an answer is as good as its worst step.
        vote: `majority`, `prm` or `weighted`; by default weighted with a PRM, else majority.
        settings: Fields of `ArbitrageSettings`; the temperature is 0.7 where none is given.

    Example:
        >>> from langgraph_arbitrage.graphs import create_best_of_n_graph
        >>> graph = create_best_of_n_graph(n=3, max_tokens=200, seed=1).compile()
        >>> state = graph.invoke({"messages": [("user", "What is 2 + 3?")]})
        >>> len(state["traces"]), state["messages"][-1].response_metadata["best_of_n"]["n"]
        (3, 3)

    Raises:
        SettingsError: A setting is outside its range.
        CheckpointError: The PRM is none.
    """
    vote = vote or ("weighted" if prm else "majority")
    if n < 1:
        raise SettingsError(f"n must be at least 1, not {n}")
    if vote not in VOTES:
        raise SettingsError(f"vote must be {', '.join(VOTES)}, not {vote!r}")
    if (vote == "majority") == bool(prm):
        need = f"vote={vote!r} goes by a PRM's scores: give prm=" if not prm else "majority needs"
        raise SettingsError(need if not prm else f"vote='majority' does not use prm={prm!r}")
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.graphs.answer_scores import AnswerScores

    llm = llm or ChatArbitrage(**{"temperature": 0.7} | settings)
    scores = AnswerScores(llm, prm) if prm else None

    def begin(state: BestOfNState) -> TalkBody:
        yield ()
        seed = llm.seed if llm.seed is not None else random.SystemRandom().getrandbits(32)
        return {"traces": Overwrite([]), "seed": seed}

    def samples(state: BestOfNState) -> list[Send]:
        return [
            Send("sample", _Sample(messages=state["messages"], index=i, seed=state["seed"] + i))
            for i in range(n)
        ]

    def sample(task: _Sample) -> TalkBody:
        message = yield Question(llm, task["messages"], {"seed": task["seed"]})
        score = None
        if scores is not None:
            score = min((yield from scores.of(last_question(task["messages"]), message)))
        trace = Trace(
            index=task["index"], answer=final_answer(message.text), score=score, message=message
        )
        return {"traces": [trace]}

    def choose(state: BestOfNState) -> TalkBody:
        yield ()
        traces = state["traces"]
        chosen = elected(traces, vote)
        usage = None
        for trace in traces:
            usage = add_usage(usage, trace["message"].usage_metadata)
        told = {"n": n, "vote": vote, "chosen": chosen["index"], "answers": _counts(traces)}
        message = chosen["message"]
        metadata = {**message.response_metadata, "best_of_n": told}
        update = {"response_metadata": metadata, "usage_metadata": usage, "id": None}
        return {"messages": [message.model_copy(update=update)]}

    graph = StateGraph(BestOfNState, context_schema=Context, input_schema=MessagesInput)
    graph.add_node("begin", Talk(begin, "begin"))
    graph.add_node("sample", Talk(sample, "sample"), input_schema=_Sample)
    graph.add_node("choose", Talk(choose, "choose"))
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", samples, ["sample"])
    graph.add_edge("sample", "choose")
    graph.add_edge("choose", END)
    return graph


def elected(traces: Sequence[Trace], vote: Vote) -> Trace:
    """The trace that wins; of equals the one with the better score, then the first.

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
