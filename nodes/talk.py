"""Nodes of graphs around the chat model: one body for sync and async, as `drive` has it.

A body yields what it wants to know, a question to the chat model or calls to engines, and is sent
the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AnyMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.runtime import get_runtime

from langgraph_arbitrage.context import Context
from langgraph_arbitrage.nodes.drive import Call, answers, answers_in_loop, ended, ended_in_loop

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["Question", "Talk", "TalkBody"]


@dataclass(frozen=True)
class Question:
    """A conversation for the chat model to answer."""

    llm: ChatArbitrage
    messages: Sequence[AnyMessage]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this call; the run's `Context` is there already."""


TalkBody = Generator[Question | Sequence[Call], Any, dict[str, Any]]
"""Yields a question and is sent the answer's message, or yields calls and is sent their answers.
An error of ours is raised at the yield. Returns the state's update."""


class Talk(Runnable[Any, dict[str, Any]]):
    """A graph node from such a body, for `invoke` and `ainvoke` alike.

    What it asks on the way is not on the graph's message stream: the graph's answer is.
    """

    def __init__(self, body: Callable[[Any], TalkBody], name: str) -> None:
        self.name = name
        self._body = body

    def invoke(
        self,
        input: Any,  # noqa: A002 - a Runnable's name for it
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the body, waiting in this thread."""
        return ended(self._body(input), lambda wanted: _told(wanted, config))

    async def ainvoke(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the body, waiting on the event loop."""
        return await ended_in_loop(self._body(input), lambda wanted: _told_in_loop(wanted, config))


def _told(wanted: Question | Sequence[Call], config: RunnableConfig | None) -> Any:
    if isinstance(wanted, Question):
        options = _options(wanted)
        return wanted.llm.invoke(list(wanted.messages), _unheard(config), **options)
    return answers(wanted)


async def _told_in_loop(wanted: Question | Sequence[Call], config: RunnableConfig | None) -> Any:
    if isinstance(wanted, Question):
        options = _options(wanted)
        return await wanted.llm.ainvoke(list(wanted.messages), _unheard(config), **options)
    return await answers_in_loop(wanted)


def _unheard(config: RunnableConfig | None) -> RunnableConfig:
    return merge_configs(config, {"tags": [TAG_NOSTREAM]})


def _options(question: Question) -> dict[str, Any]:
    """The call's settings: the run's, and above them the question's own."""
    context = get_runtime(Context).context
    given = {n: v for n in Context.OVERRIDES if (v := getattr(context, n, None)) is not None}
    return given | dict(question.options)
