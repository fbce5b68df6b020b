"""Models and a policy that answer questions, one at a time, and tell the time that it took."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from langgraph_arbitrage.context import Context
from langgraph_arbitrage.engine import GenerateRequest, RequestHandle, ScoreRequest
from langgraph_arbitrage.errors import RequestCancelledError, ThreadError
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph, recursion_limit
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.models.pair import Models
from langgraph_arbitrage.nodes import CancelScope
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.prompts import last_question
from langgraph_arbitrage.settings import ArbitrageSettings
from langgraph_arbitrage.threads import finished, steps_of

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig

    from langgraph_arbitrage.state import StepRecord

__all__ = ["Answer", "Team", "answer_of", "committed"]


@dataclass(frozen=True)
class Answer:
    """An answer and its figures."""

    question: str
    text: str
    figures: dict[str, Any]
    """`response_metadata["arbitrage"]` of the answer's message."""
    usage: dict[str, Any]
    seconds: float
    """From the question to the last token; loading is not in it."""

    @property
    def record(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "question": self.question,
            "answer": self.text,
            "finish_reason": self.figures["finish_reason"],
            "arbitrage": self.figures,
            "usage": self.usage,
            "seconds": self.seconds,
        }


class Team:
    """Models and a policy; teams of the same models share them.

    With a checkpointer, each answer is stored on a thread.
    """

    def __init__(self, settings: ArbitrageSettings, checkpointer: Any = None) -> None:
        self.settings = settings
        self._models = Models(settings)
        self.graph = create_arbitrage_graph(self._models).compile(checkpointer=checkpointer)

    def with_policy(self, policy: Policy) -> Team:
        """The same models under another policy."""
        return Team(self.settings.under(policy))

    def close(self) -> None:
        """Give the models back; one without another user is unloaded."""
        self._models.close()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.settings.policy

    def check(self, question: str) -> None:
        """Raise where a model cannot be used or cannot read the question; loads no weights.

        Raises:
            ChatTemplateError: A model has no chat template.
            CheckpointError: A path is no model.
            ContextLengthError: The question does not fit a model's context.
        """
        self._models.prepare(self.policy)
        self._models.prompts([HumanMessage(question)], self.policy)

    def greet(self) -> float:
        """Have each model that the policy uses write one token; the seconds it took.

        The first time, that loads the models. With one slot it also leaves each cache with the
        greeting alone, so that no answer finds there what another one has read.
        """
        start = time.perf_counter()
        models = self._models
        prompts = models.prompts([HumanMessage("Hello!")], self.policy)
        writers = {role: models.engine(role) for role in models.roles(self.policy)}
        tickets: list[RequestHandle[Any]] = [
            engine.submit(GenerateRequest(ids=prompts[role], max_tokens=1))
            for role, engine in writers.items()
        ]
        tickets += [
            engine.submit(ScoreRequest(engine.tokenizer.encode("Hello!")))
            for engine in models.meet(self.policy)
        ]
        for ticket in tickets:
            ticket.result()
        return time.perf_counter() - start

    def answer(
        self,
        question: str | None,
        listener: Callable[[StepEvent], None] | None = None,
        thread: str | None = None,
        *,
        scope: CancelScope | None = None,
        quiet: bool = False,
    ) -> Answer:
        """Answer a question.

        Args:
            question: The text; None goes on with the thread, whose steps so far are told first.
            listener: Called with each event of the run.
            thread: Where the answer is stored.
            scope: Cancelling it stops the models within a token.
            quiet: The target's tokens are not told one by one, as where nobody streams.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, or the scope cancelled; the models have stopped.
            ThreadError: The run waits for a human.
        """
        scope = scope or CancelScope()
        state: dict[str, Any] = {}
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        if question is None:
            state = dict(self.graph.get_state(config).values)
            for index, step in enumerate(steps_of(state)):
                if listener is not None:
                    listener(committed(index, step))
            if finished(state):
                return answer_of(state, sum(step["seconds"] for step in state["steps"]))
        asked: Any = None if question is None else {"messages": [HumanMessage(question)]}
        start = time.perf_counter()
        with _ctrl_c_cancels(scope):
            parts = self.graph.stream(
                asked,
                {**config, "recursion_limit": recursion_limit(Limits.of(self.settings))},
                context=Context(cancel=scope, quiet=quiet),
                stream_mode=["custom", "values"],
            )
            try:
                for mode, part in parts:
                    if mode == "values":
                        state = part  # type: ignore[assignment]
                    elif listener is not None:
                        listener(part)  # type: ignore[arg-type]
            except RequestCancelledError:
                if not scope.cancelled:
                    raise
            if scope.cancelled:
                raise KeyboardInterrupt
        return answer_of(state, time.perf_counter() - start)


def committed(index: int, step: StepRecord) -> StepEvent:
    """A stored step as the event that it once was."""
    return StepEvent(
        type="committed",
        step=index,
        writer=step["writer"],
        text=step["text"],
        score=step["score"],
        tokens=len(step["ids"]),
        kept=step["kept"],
        seconds=step["seconds"],
    )


def answer_of(state: dict[str, Any], seconds: float) -> Answer:
    """The answer of a finished run's state."""
    if not finished(state):
        raise ThreadError(
            "the run waits for a human's approval, which the command line does not ask for: resume "
            "it with Command(resume=...)"
        )
    message: AIMessage = state["messages"][-1]
    return Answer(
        last_question(state["messages"]),
        message.text,
        message.response_metadata["arbitrage"],
        dict(message.usage_metadata or {}),
        seconds,
    )


@contextmanager
def _ctrl_c_cancels(scope: CancelScope) -> Iterator[None]:
    """Ctrl-C stops the models within a token; a second one does not wait for them.

    An exception out of the handler would do the opposite: the graph, unwinding, waits for the
    step that is being written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def cancel(number: int, frame: Any) -> None:
        if scope.cancelled:
            raise KeyboardInterrupt
        scope.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
