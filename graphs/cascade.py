"""A cascade over three models or more: a small pair first, a larger one where it was not sure.

START → level_1 ─┬→ END
                 └→ level_2 ─┬→ END
                             └→ …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from langgraph_arbitrage import embedded
from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.nodes.talk import Question, Talk, TalkBody
from langgraph_arbitrage.prompts import last_question
from langgraph_arbitrage.state import MessagesInput

if TYPE_CHECKING:
    from langgraph_arbitrage.policies import Policy

__all__ = ["CascadeState", "create_cascade_graph"]


class CascadeState(TypedDict, total=False):
    """What the graph knows."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation; the answer is appended."""
    tried: list[AIMessage]
    """The answers to the last question, those that were not good enough first."""
    confidences: list[float]
    """How sure each of them is, in [0, 1]."""


def create_cascade_graph(
    models: Sequence[str] = (embedded.DRAFT, embedded.READER, embedded.TARGET),
    /,
    *,
    threshold: float = 0.9,
    prm: str | None = None,
    routers: Sequence[Policy | str | None] | None = None,
    **settings: Any,
) -> StateGraph[CascadeState, Context, MessagesInput, CascadeState]:
    """Models from the smallest to the largest, each pair of neighbours a level.

    On a level the smaller one drafts and the larger one writes again the steps that its policy
    escalates. The answer is taken iff its confidence is at least the threshold, else the next
    level answers; the last one's is always taken. It has `response_metadata["cascade"]` =
    {`level`, `levels`, `confidences`}. The confidence is that of the least sure step: the mean
    probability of its tokens under its writer, or the PRM's score.

    Args:
        models: Three or more; two would be no cascade.
        threshold: In [0, 1]: 0 takes every answer of the first level. How sure is sure enough
            depends on the models; find it on questions of your own.
        prm: A process reward model that scores the steps in the writers' place.
        routers: The policy of each level, or its router's checkpoint; by default DraftConfidence.
        settings: Further fields of `ArbitrageSettings`.

    Example:
        >>> from langgraph_arbitrage.graphs import create_cascade_graph
        >>> graph = create_cascade_graph(max_tokens=200).compile()
        >>> question = "Ann has 34 apples. She buys 58. How many apples are there in the end?"
        >>> state = graph.invoke({"messages": [("user", question)]})
        >>> state["messages"][-1].response_metadata["cascade"]["level"] in (1, 2)
        True

    Raises:
        SettingsError: A setting is outside its range.
        CheckpointError: The PRM is none.
    """
    levels = len(models) - 1
    if isinstance(models, str) or levels < 2:
        raise SettingsError(f"a cascade needs three models or more, small ones first, not {models}")
    if not 0 <= threshold <= 1:
        raise SettingsError(f"threshold must be a number from 0 to 1, not {threshold}")
    routers = [None] * levels if routers is None else routers
    if len(routers) != levels:
        raise SettingsError(
            f"{len(models)} models make {levels} pairs: give a router for each, or None, "
            f"not {len(routers)}"
        )
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.graphs.answer_scores import AnswerScores, confidences

    chats = [
        ChatArbitrage(draft=draft, target=target, router=router, logprobs=True, **settings)
        for draft, target, router in zip(models[:-1], models[1:], routers, strict=True)
    ]
    scores = AnswerScores(chats[0], prm) if prm else None

    def level(number: int) -> Talk:
        def answer(state: CascadeState) -> TalkBody:
            tried, sure = (state["tried"], state["confidences"]) if number > 1 else ([], [])
            message = yield Question(chats[number - 1], state["messages"])
            if scores is None:
                found = confidences(message)
            else:
                found = yield from scores.of(last_question(state["messages"]), message)
            update = {"tried": [*tried, message], "confidences": [*sure, min(found)]}
            if number < levels and min(found) < threshold:
                return update
            told = {"level": number, "levels": levels, "confidences": update["confidences"]}
            metadata = {**message.response_metadata, "cascade": told}
            final = message.model_copy(update={"response_metadata": metadata, "id": None})
            return {**update, "messages": [final]}

        return Talk(answer, _name(number))

    def after(number: int) -> Any:
        def taken(state: CascadeState) -> str:
            return END if state["confidences"][-1] >= threshold else _name(number + 1)

        return taken

    graph = StateGraph(CascadeState, context_schema=Context, input_schema=MessagesInput)
    for number in range(1, levels + 1):
        graph.add_node(_name(number), level(number))
    graph.add_edge(START, _name(1))
    for number in range(1, levels):
        graph.add_conditional_edges(_name(number), after(number), [_name(number + 1), END])
    graph.add_edge(_name(levels), END)
    return graph


def _name(number: int) -> str:
    return f"level_{number}"
