"""A cascade over three or more models: a larger pair answers if the smaller one was unsure.

START → level_1 ─┬→ END
                 └→ level_2 ─┬→ END
                             └→ …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import Runnable
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from langgraph_arbitrage import embedded
from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.nodes.binding import Chat, chat_node
from langgraph_arbitrage.prompts.messages import last_question
from langgraph_arbitrage.state import MessagesInput

if TYPE_CHECKING:
    from langgraph_arbitrage.policies import Policy

__all__ = ["CascadeState", "create_cascade_graph"]


class CascadeState(TypedDict, total=False):
    """State of the graph."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation; the answer is appended."""
    tried: list[AIMessage]
    """All answers to the last question; only the last one was accepted."""
    confidences: list[float]
    """Confidence of each answer, in [0, 1]."""


def create_cascade_graph(
    models: Sequence[str] = (embedded.DRAFT, embedded.READER, embedded.TARGET),
    /,
    *,
    threshold: float = 0.9,
    prm: str | None = None,
    routers: Sequence[Policy | str | None] | None = None,
    **settings: Any,
) -> StateGraph[CascadeState, Context, MessagesInput, CascadeState]:
    """Levels of draft and target pairs, from the smallest model to the largest.

    On each level the smaller model drafts and the larger one rewrites escalated steps. An answer is
    accepted iff its confidence reaches the threshold; otherwise the next level answers. The last
    level's answer is always accepted. It has `response_metadata["cascade"]` = {`level`, `levels`,
    `confidences`}. The confidence of an answer is that of its least confident step: the mean
    probability of the step's tokens under its writer, or the PRM's score.

    Args:
        models: Three or more models, the smallest first.
        threshold: Confidence in [0, 1] from which an answer is accepted; 0 accepts every answer of
            the first level. A good value depends on the models: find it on your own questions.
        prm: Process reward model that scores the steps instead of their writers.
        routers: Policy or router checkpoint of each level. Default: the default policy of its pair.
        settings: Further fields of `ArbitrageSettings`.

    Example:
        >>> from langgraph_arbitrage.graphs import create_cascade_graph
        >>> graph = create_cascade_graph(max_tokens=200).compile()
        >>> question = "Ann has 34 apples. She buys 58. How many apples are there in the end?"
        >>> state = graph.invoke({"messages": [("user", question)]})
        >>> state["messages"][-1].response_metadata["cascade"]["level"] in (1, 2)
        True

    Raises:
        SettingsError: A setting is unknown or outside its range.
        CheckpointError: The checkpoint is not a PRM of a known format.
    """
    levels = len(models) - 1
    if isinstance(models, str) or levels < 2:
        raise SettingsError(
            f"a cascade needs three or more models, the smallest first, not {models}"
        )
    if not 0 <= threshold <= 1:
        raise SettingsError(f"threshold must be a number from 0 to 1, not {threshold}")
    routers = [None] * levels if routers is None else routers
    if len(routers) != levels:
        raise SettingsError(
            f"{len(models)} models make {levels} levels: pass a router (or None) for each, "
            f"not {len(routers)}"
        )
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.graphs.answer_scores import AnswerScores, confidences

    chats = [
        ChatArbitrage(draft=draft, target=target, router=router, logprobs=True, **settings)
        for draft, target, router in zip(models[:-1], models[1:], routers, strict=True)
    ]
    scores = AnswerScores(chats[0], prm) if prm else None

    def level(number: int) -> Runnable[Any, Any]:
        async def answer(state: CascadeState, chat: Chat) -> dict[str, Any]:
            tried, before = (state["tried"], state["confidences"]) if number > 1 else ([], [])
            message = await chat.ask(chats[number - 1], state["messages"])
            if scores is None:
                found = confidences(message)
            else:
                found = await scores.score(last_question(state["messages"]), message, chat)
            update: dict[str, Any] = {
                "tried": [*tried, message],
                "confidences": [*before, min(found)],
            }
            if number < levels and min(found) < threshold:
                return update
            statistics = {"level": number, "levels": levels, "confidences": update["confidences"]}
            metadata = {**message.response_metadata, "cascade": statistics}
            final = message.model_copy(update={"response_metadata": metadata, "id": None})
            return {**update, "messages": [final]}

        return chat_node(answer, _name(number))

    def after(number: int) -> Any:
        def accept_or_continue(state: CascadeState) -> str:
            return END if state["confidences"][-1] >= threshold else _name(number + 1)

        return accept_or_continue

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
