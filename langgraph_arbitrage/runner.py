"""The runner of the command line: answers questions one at a time, with events and timing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.engine import GenerateRequest, RequestHandle, ScoreRequest
from langgraph_arbitrage.errors import RequestCancelledError, ThreadError
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.graphs.arbitrage import create_arbitrage_graph, recursion_limit
from langgraph_arbitrage.loop.answer_state import is_finished, steps_of
from langgraph_arbitrage.loop.engine_calls import CancelScope
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.persistence.migrate import check_version
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.prompts.messages import last_question

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig

    from langgraph_arbitrage.state import StepRecord

__all__ = ["Answer", "Runner", "answer_of", "committed_event"]


@dataclass(frozen=True)
class Answer:
    """An answer with its statistics."""

    question: str
    text: str
    statistics: dict[str, Any]
    """`response_metadata["arbitrage"]` of the answer's message."""
    usage: dict[str, Any]
    seconds: float
    """Seconds from the question to the last token. Includes model loading without `warm_up`."""

    @property
    def record(self) -> dict[str, Any]:
        """The answer as a dict that can be written as JSON."""
        return {
            "question": self.question,
            "answer": self.text,
            "finish_reason": self.statistics["finish_reason"],
            "arbitrage": self.statistics,
            "usage": self.usage,
            "seconds": self.seconds,
        }


class Runner:
    """Answers questions with a draft model, a target model and a policy.

    Runners with equal model settings share the loaded models.

    Args:
        settings: The models, the policy and all other settings.
        checkpointer: A LangGraph checkpointer that stores each answer in a thread. None: answers
            are not stored.
    """

    def __init__(self, settings: ArbitrageSettings, checkpointer: Any = None) -> None:
        self.settings = settings
        self._models = Models(settings)
        self.graph = create_arbitrage_graph(self._models).compile(checkpointer=checkpointer)

    def with_policy(self, policy: Policy) -> Runner:
        """Return a runner with the same models and another policy."""
        return Runner(self.settings.under(policy))

    def close(self) -> None:
        """Release the models. A model that no other runner or graph uses is unloaded."""
        self._models.close()

    @property
    def policy(self) -> Policy:
        """The policy with its threshold and options applied."""
        return self.settings.policy

    def check(self, question: str) -> None:
        """Raise an error if the models cannot answer `question`. Loads no weights.

        Raises:
            ChatTemplateError: A model has no chat template.
            CheckpointError: A path is not a usable checkpoint.
            ContextLengthError: The prompt is longer than a model's context length.
        """
        self._models.prepare(self.policy)
        self._models.render_prompts([HumanMessage(question)], self._models.run_settings)

    def warm_up(self) -> float:
        """Run a short request on each model that the policy uses. Returns the elapsed seconds.

        The first call loads the models. If a model has only one slot, the request overwrites the
        previous answer in its KV cache.
        """
        start = time.perf_counter()
        models = self._models
        prompts = models.render_prompts([HumanMessage("Hello!")], models.run_settings)
        writers = {role: models.engine(role) for role in models.roles(self.policy)}
        handles: list[RequestHandle[Any]] = [
            engine.submit(GenerateRequest(ids=prompts[role], max_tokens=1))
            for role, engine in writers.items()
        ]
        handles += [
            engine.submit(ScoreRequest(engine.tokenizer.encode("Hello!")))
            for engine in models.scorer_engines(self.policy)
        ]
        for handle in handles:
            handle.result()
        return time.perf_counter() - start

    def answer(
        self,
        question: str | None,
        listener: Callable[[StepEvent], None] | None = None,
        thread: str | None = None,
        *,
        cancel: CancelScope | None = None,
        quiet: bool = False,
    ) -> Answer:
        """Answer a question.

        Args:
            question: The question. None resumes the unfinished answer of `thread`. The listener
                then first receives a `committed` event for each committed step.
            listener: Called with each event of the run.
            thread: Id of the thread that stores the answer. Needs a checkpointer.
            cancel: Calling `cancel.cancel()` stops the run within one token.
            quiet: Whether to omit the `target_delta` events.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, or `cancel` was cancelled. No model generates
                any longer.
            ThreadError: The run waits for a human's approval, or the thread was written by an
                incompatible version of this package.
        """
        cancel = cancel or CancelScope()
        state: dict[str, Any] = {}
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        if question is None:
            state = dict(self.graph.get_state(config).values)
            check_version(state)
            for index, step in enumerate(steps_of(state)):
                if listener is not None:
                    listener(committed_event(index, step))
            if is_finished(state):
                return answer_of(state, sum(step["seconds"] for step in state["steps"]))
        start_input: Any = None if question is None else {"messages": [HumanMessage(question)]}
        start = time.perf_counter()
        with _ctrl_c_cancels(cancel):
            parts = self.graph.stream(
                start_input,
                {**config, "recursion_limit": recursion_limit(RunSettings.of(self.settings))},
                context=Context(cancel=cancel, quiet=quiet),
                stream_mode=["custom", "values"],
            )
            try:
                for mode, part in parts:
                    if mode == "values":
                        state = part  # type: ignore[assignment]
                    elif listener is not None:
                        listener(part)  # type: ignore[arg-type]
            except RequestCancelledError:
                if not cancel.cancelled:
                    raise
            if cancel.cancelled:
                raise KeyboardInterrupt
        return answer_of(state, time.perf_counter() - start)


def committed_event(index: int, step: StepRecord) -> StepEvent:
    """Build the `committed` event of a step.

    Args:
        index: Index of the step in the answer, from 0.
        step: The step.
    """
    return StepEvent(
        type="committed",
        step=index,
        writer=step["writer"],
        text=step["text"],
        score=step["score"],
        tokens=len(step["ids"]),
        accepted_draft_tokens=step["accepted_draft_tokens"],
        seconds=step["seconds"],
    )


def answer_of(state: dict[str, Any], seconds: float) -> Answer:
    """Return the answer of a finished run.

    Args:
        state: The state of the graph after the run.
        seconds: Value of `Answer.seconds`.

    Raises:
        ThreadError: The run waits for a human's approval.
    """
    if not is_finished(state):
        raise ThreadError(
            "The run waits for a human's approval, which the command line does not support. Resume "
            "the run in Python with Command(resume=...)."
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
def _ctrl_c_cancels(cancel: CancelScope) -> Iterator[None]:
    """Cancel the run within one token on Ctrl-C. A second Ctrl-C raises KeyboardInterrupt.

    The handler does not raise at the first Ctrl-C, because the graph would then wait for the end of
    the running node.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def handler(number: int, frame: Any) -> None:
        if cancel.cancelled:
            raise KeyboardInterrupt
        cancel.cancel()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
