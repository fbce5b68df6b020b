"""One run of the graph, as a node sees it: limits in force, models, and where events go."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from langchain_core.messages import AIMessageChunk
from langgraph.config import get_config
from langgraph.graph.message import push_message
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import Overwrite

from langgraph_arbitrage.answer_state import (
    answer_id,
    begins_answer,
    steps_so_far,
    target_tokens,
)
from langgraph_arbitrage.approval import asks_approval, confidence
from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.models.pair import PLAIN, Models
from langgraph_arbitrage.prompts import check_conversation
from langgraph_arbitrage.state import ArbitrageState, ModelIdentity, StepRecord
from langgraph_arbitrage.tools.form import AnswerForm, Demands
from langgraph_arbitrage.writing import Writing

__all__ = ["Run"]


class Run(Writing):
    """What the nodes share; outside of a graph, what writes and judges steps as its nodes do.

    Args:
        models: The models.
        limits: Policy, sampling and limits in force; the settings' own by default.
        context: What else was set for the run.
        emit: Where events go.
        about: What LangGraph knows of the run; None outside of a graph.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits | None = None,
        context: Any = None,
        emit: Callable[[Any], None] = lambda event: None,
        *,
        about: Any = None,
    ) -> None:
        super().__init__(models, limits or models.limits)
        self.cancel = getattr(context, "cancel", None)
        self.heard = not _leads_nowhere(emit)
        """Whether somebody may hear this run's events."""
        self.quiet = bool(getattr(context, "quiet", False)) or not self.heard
        self.other_models = bool(getattr(context, "other_models", False))
        # In a graph inside another one it may be of the other's kind.
        self._context = context if isinstance(context, Context) else _NO_CONTEXT
        self._emit = emit
        self._about = about

    @classmethod
    def of_node(cls, models: Models) -> Run:
        """The run of the node that is running, by LangGraph's runtime."""
        runtime: Runtime[Context] | None = get_runtime(Context)
        if runtime is None:  # the state is edited from outside of a run
            return cls(models)
        return cls(
            models,
            models.limits.overridden(runtime.context),
            runtime.context,
            runtime.stream_writer,
            about=runtime.execution_info,
        )

    # --- telling what happens ------------------------------------------------------------

    def emit(self, event: StepEvent) -> None:
        """Put an event on the graph's custom stream, where somebody reads it."""
        if not self.heard:
            return
        thread = self._about.thread_id if self._about else None
        self._emit(_EMPTY | {"thread": thread} | event)

    @property
    def is_read(self) -> bool:
        """Whether somebody reads the graph's message stream."""
        return self._about is not None and bool(get_config()["callbacks"].handlers)  # type: ignore[union-attr]

    def say(self, state: ArbitrageState, chunk: AIMessageChunk) -> None:
        """Put a part of the answer on the graph's message stream."""
        push_message(chunk.model_copy(update={"id": answer_id(state)}), state_key=None)

    # --- limits and approval -------------------------------------------------------------

    def limit_reached(self, steps: Sequence[StepRecord]) -> str | None:
        """Which budget of the answer is spent, if one is."""
        tokens, seconds = self.limits.max_target_tokens, self.limits.max_seconds
        if seconds is not None and sum(s["seconds"] for s in steps) >= seconds:
            return "max_seconds"
        if tokens is not None and self.limits.approve != "budget":
            return "max_target_tokens" if target_tokens(steps) >= tokens else None
        return None

    def draft_alone(self, state: ArbitrageState) -> bool:
        """Whether the draft finishes the answer, since a budget is spent."""
        if self.limits.at_limit != "draft":
            return False
        return self.limit_reached(steps_so_far(state)) is not None

    def asks(self, state: ArbitrageState, *, escalate: bool) -> bool:
        """Whether a human is to be asked about the step that is to be decided."""
        if self.limits.approve is None:
            return False
        asks = asks_approval(
            self.limits.approve,
            escalate=escalate,
            confidence=confidence(state.get("draft_step")),
            target_tokens=target_tokens(state["steps"]),
            max_target_tokens=self.limits.max_target_tokens,
        )
        if asks and not (self._about and self._about.thread_id):
            raise SettingsError(
                f"approve={self.limits.approve!r} stops the run until a human has answered, and "
                "there is no checkpointer to keep it: compile the graph with one, or use the chat "
                "model in a graph that has one, and give a thread_id"
            )
        return asks

    def time_left(self, state: ArbitrageState) -> float | None:
        """Seconds until the answer's `timeout`; None without one.

        Counted from the making of the run's `CancelScope`, or, in a run without one, by the time
        of the models on the answer so far: a run may be resumed after days.
        """
        timeout = self.limits.timeout
        if timeout is None:
            return None
        if self.cancel is not None:
            began: float = self.cancel.began
            return timeout - (time.monotonic() - began)
        if begins_answer(state):
            return timeout
        pending = (state.get(name) for name in ("draft_step", "target_step", "verdict"))
        parts: Iterator[Any] = chain(state["steps"], filter(None, pending))
        spent: float = sum(part["seconds"] for part in parts)
        return timeout - spent

    # --- the beginning of an answer ------------------------------------------------------

    def opened(self, state: ArbitrageState) -> tuple[ArbitrageState, dict[str, Any]]:
        """The state with an answer under way, and the update that opens it, if it does.

        A state without prompts, whose last answer is finished, or that has got another message
        since, begins a new answer to its messages.
        """
        if not begins_answer(state):
            return state, {}
        messages = state.get("messages") or []
        check_conversation(messages)
        seed = self.limits.seed
        if seed is None:
            seed = random.SystemRandom().getrandbits(32) if self.limits.temperature else 0
        prompts = self.prompts(state)
        update: dict[str, Any] = {
            "answers": messages[-1].id,
            "prompts": prompts,
            "models": self.identities(prompts),
            "demands": self.demands(state),
            "seed": seed,
            "finish_reason": None,
            # A run that broke may have left these behind.
            "draft_step": None,
            "target_step": None,
            "verdict": None,
        }
        opened: ArbitrageState = {**state, **update, "steps": []}  # type: ignore[typeddict-item]
        if state.get("steps"):
            update["steps"] = Overwrite([])  # those of the answer before
        return opened, update

    def prompts(self, state: ArbitrageState) -> dict[str, list[int]]:
        """The conversation as each model of this run reads it."""
        form = self._form(state)
        return self.models.prompts(state["messages"], self.policy, also=self.roles, form=form)

    def demands(self, state: ArbitrageState) -> Demands:
        """What the answer may be, for each model of this run."""
        return self.models.demands(self._form(state), self.roles)

    def _form(self, state: ArbitrageState) -> AnswerForm:
        """What the context asks for; in the middle of an answer else the tools that it has."""
        form = self._context.form
        if form == PLAIN and not begins_answer(state):
            return AnswerForm(tools=tuple(state["demands"]["tools"]))
        return form

    def identities(self, prompts: Mapping[str, Any]) -> dict[str, ModelIdentity]:
        """Which models read these prompts."""
        return {role: self.models.identity(role) for role in prompts}  # type: ignore[arg-type]


def _leads_nowhere(write: Callable[[Any], None]) -> bool:
    """Whether this is what LangGraph gives a node where nobody reads the custom stream.

    That has nothing to write to: it closes over nothing.
    """
    own = getattr(write, "__module__", "").startswith("langgraph.")
    return own and getattr(write, "__closure__", write) is None


_NO_CONTEXT = Context()
_EMPTY = StepEvent(thread=None, step=0, writer=None, text="", score=None, tokens=0, seconds=0.0)
