"""A run of the graph, shared by its nodes: models, settings, requests, events."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from langchain_core.messages import AIMessageChunk
from langgraph.config import get_config
from langgraph.graph.message import push_message
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import Overwrite

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.answer import AnswerAssembler
from langgraph_arbitrage.loop.answer_state import (
    answer_id,
    begins_answer,
    joined_text,
    target_tokens,
)
from langgraph_arbitrage.loop.approval import needs_approval
from langgraph_arbitrage.loop.engine_calls import (
    CancelScope,
    Deadline,
    EngineCall,
    submit,
    submit_async,
)
from langgraph_arbitrage.loop.generation import Generation
from langgraph_arbitrage.loop.models import FREE_TEXT, Models
from langgraph_arbitrage.prompts.messages import check_conversation
from langgraph_arbitrage.state import STATE_VERSION, ArbitrageState, ModelIdentity, StepRecord
from langgraph_arbitrage.tools.response_format import OutputConstraints, ResponseFormat

__all__ = ["Run"]


class Run:
    """The objects that the nodes of a run share. Without a runtime, it works outside of a graph.

    Args:
        models: The models.
        settings: The run's settings; by default those of the models.
        runtime: LangGraph's runtime of the node.
        blocking: Block this thread while models work, instead of awaiting them.
    """

    def __init__(
        self,
        models: Models,
        settings: RunSettings | None = None,
        runtime: Runtime[Context] | None = None,
        *,
        blocking: bool = False,
    ) -> None:
        context = runtime.context if runtime else None
        # In a subgraph, the context may have the type that the parent graph declares.
        self.context = context if isinstance(context, Context) else NO_CONTEXT
        self.models = models
        self.settings = settings or models.run_settings.overridden(self.context)
        self.policy = self.settings.policy
        self.generation = Generation(models, self.settings)
        self.cancel: CancelScope | None = self.context.cancel
        self._runtime = runtime
        self._blocking = blocking
        self._deadline: Deadline | None = None

    @classmethod
    def of_node(cls, models: Models, *, blocking: bool) -> Run:
        """Create the run of the current node."""
        return cls(models, runtime=get_runtime(Context), blocking=blocking)

    @property
    def thread_id(self) -> str | None:
        """Id of the run's thread; None without a checkpointer."""
        info = self._runtime.execution_info if self._runtime else None
        return info.thread_id if info else None

    # --- model work ----------------------------------------------------------------------

    def start_clock(self, state: ArbitrageState) -> None:
        """Start the deadline of the settings' `timeout`.

        The time counts from the creation of the run's `CancelScope`. Without one, only the model
        time of the answer counts, because a run may be resumed after days.
        """
        timeout = self.settings.timeout
        if timeout is None:
            return
        if self.cancel is not None:
            left = timeout - (time.monotonic() - self.cancel.started)
        elif begins_answer(state):
            left = timeout
        else:
            pending: list[Any] = [state.get(k) for k in ("draft_step", "target_step", "decision")]
            left = timeout - sum(part["seconds"] for part in (*state["steps"], *pending) if part)
        self._deadline = Deadline(timeout, time.monotonic() + left)

    async def submit(self, calls: Sequence[EngineCall]) -> list[Any]:
        """Submit requests and wait for all outputs. Never suspends in a blocking run.

        Raises:
            AnswerTimeoutError: The answer's `timeout` has passed.
            EngineError: A request has failed.
        """
        if self._blocking:
            return submit(calls, self.cancel, self._deadline)
        return await submit_async(calls, self.cancel, self._deadline)

    # --- events --------------------------------------------------------------------------

    def emit(self, event: StepEvent) -> None:
        """Write an event to the graph's custom stream."""
        if self._runtime is not None:
            self._runtime.stream_writer(EMPTY_EVENT | {"thread": self.thread_id} | event)

    def assembler(self, state: ArbitrageState, step: str = "") -> AnswerAssembler:
        """Return the assembler of the answer, which contains its steps and part of the next one.

        Args:
            state: The state.
            step: Known text of the next step.
        """
        committed = joined_text(state["steps"])
        found = self.models.take_assembler(answer_id(state))
        if found is None or not (
            found.text.startswith(committed) and (committed + step).startswith(found.text)
        ):
            parser = self.generation.parser(state["steps"], state["constraints"]["tools"])
            found = AnswerAssembler(parser, self.settings.stop, self.models.settings.separator)
            found.feed(committed)
        return found

    @cached_property
    def streams_messages(self) -> bool:
        """True if the graph's message stream may have a reader. LangGraph adds it as a callback."""
        if self._runtime is None or self.context.quiet:
            return False
        return bool(get_config()["callbacks"].handlers)  # type: ignore[union-attr]

    def push(self, state: ArbitrageState, chunks: Sequence[AIMessageChunk]) -> None:
        """Write message chunks to the graph's message stream."""
        if self.streams_messages:
            for chunk in chunks:
                chunk.id = answer_id(state)
                push_message(chunk, state_key=None)

    # --- limits and approval -------------------------------------------------------------

    def limit_reached(self, steps: Sequence[StepRecord]) -> str | None:
        """Return the name of the budget that is spent; None if none is."""
        seconds, tokens = self.settings.max_seconds, self.settings.max_target_tokens
        if seconds is not None and sum(s["seconds"] for s in steps) >= seconds:
            return "max_seconds"
        if tokens is None or self.settings.approve == "budget" or target_tokens(steps) < tokens:
            return None
        return "max_target_tokens"

    def draft_alone(self, state: ArbitrageState) -> bool:
        """Return True if the draft finishes the answer alone because a budget is spent."""
        return self.settings.at_limit == "draft" and self.limit_reached(state["steps"]) is not None

    def draft_is_full(self, state: ArbitrageState) -> bool:
        """Return True if the draft's context is full and the target can continue."""
        if not (self.policy.needs_draft and self.policy.needs_target):
            return False
        context = self.models.engine("draft").context
        if context is None:
            return False
        return len(self.models.input_ids("draft", state["prompts"], state["steps"])) >= context

    def needs_approval(self, state: ArbitrageState, *, escalate: bool) -> bool:
        """Return True if a human must approve the pending step.

        Raises:
            SettingsError: The graph has no checkpointer, so the run cannot wait.
        """
        asks = needs_approval(state, self.settings, escalate=escalate)
        if asks and not self.thread_id:
            raise SettingsError(
                f"approve={self.settings.approve!r} stops the run until a human has answered, "
                "which needs a checkpointer. Compile the graph with one, or use the chat model in "
                "a graph that has one, and pass a thread_id"
            )
        return asks

    def first_writer(self, state: ArbitrageState) -> str:
        """Return the node that writes the next step: `draft`, unless the policy skips it.

        A draft whose context is full is skipped too: the target continues alone.
        """
        skips = self.policy.skips_draft(self.generation.view(state)) or self.draft_is_full(state)
        if self.draft_alone(state) or not skips:
            return "draft"
        return "approve" if self.needs_approval(state, escalate=True) else "regenerate"

    # --- the beginning of an answer ------------------------------------------------------

    def open_answer(self, state: ArbitrageState) -> dict[str, Any]:
        """Return the state update that begins an answer to the messages.

        Raises:
            MessageError: The conversation has no text.
            ContextLengthError: The conversation does not fit a model's context.
        """
        messages = state.get("messages") or []
        check_conversation(messages)
        seed = self.settings.seed
        if seed is None:
            samples = self.generation.sampling.temperature > 0
            seed = random.SystemRandom().getrandbits(32) if samples else 0
        update: dict[str, Any] = {
            "version": STATE_VERSION,
            "question_id": messages[-1].id,
            **self.render(state),
            "seed": seed,
            "finish_reason": None,
            # An interrupted run may have left these values.
            "draft_step": None,
            "target_step": None,
            "decision": None,
        }
        if state.get("steps"):
            update["steps"] = Overwrite([])  # those of the previous answer
        return update

    def render(self, state: ArbitrageState) -> dict[str, Any]:
        """Return the prompts, identities and output constraints of this run's models."""
        response_format = self._response_format(state)
        roles = self.generation.roles
        prompts = self.models.render_prompts(
            state["messages"], self.settings, also=roles, response_format=response_format
        )
        constraints: OutputConstraints = self.models.output_constraints(
            response_format, roles, self.settings
        )
        return {
            "prompts": prompts,
            "models": self.identities(prompts),
            "constraints": constraints,
        }

    def _response_format(self, state: ArbitrageState) -> ResponseFormat:
        """Return the context's response format. Within an answer, the default is its own tools."""
        context = self.context
        found = ResponseFormat.of(
            context.tools,
            context.tool_choice,
            context.parallel_tool_calls,
            context.response_format,
        )
        if found == FREE_TEXT and not begins_answer(state):
            return ResponseFormat(tools=tuple(state["constraints"]["tools"]))
        return found

    def identities(self, prompts: Mapping[str, Any]) -> dict[str, ModelIdentity]:
        """Return the identity of each role's model."""
        return {role: self.models.identity(role) for role in prompts}  # type: ignore[arg-type]


NO_CONTEXT = Context()
EMPTY_EVENT = StepEvent(
    thread=None, step=0, writer=None, text="", score=None, tokens=0, seconds=0.0
)
