"""One run of the graph, as a node sees it: limits in force, models, and where events go."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from langgraph.runtime import get_runtime
from langgraph.types import Overwrite

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.policies import PastStep, StepText, StepView, Writer
from langgraph_arbitrage.prompts import check_conversation, last_question
from langgraph_arbitrage.settings import Context, Limits
from langgraph_arbitrage.state import ArbitrageState, PendingStep, Verdict

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Write, Written

__all__ = ["Run"]


class Run:
    """What the nodes share; outside of a graph, what writes and judges steps as its nodes do.

    Args:
        models: The models.
        limits: Policy, sampling and limits in force; the settings' own by default.
        cancel: Cancels the run's model work.
        emit: Where events go.
        quiet: Nobody hears the events.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits | None = None,
        cancel: Any = None,
        emit: Callable[[Any], None] = lambda event: None,
        *,
        quiet: bool = False,
    ) -> None:
        self.models = models
        self.limits = limits or Limits.of(models.settings)
        self.policy = self.limits.policy
        self.cancel = cancel
        self.quiet = quiet
        self._emit = emit

    @classmethod
    def of_node(cls, models: Models) -> Run:
        """The run of the node that is running, by LangGraph's runtime."""
        runtime = get_runtime(Context)
        limits = Limits.of(models.settings).overridden(runtime.context)
        cancel = getattr(runtime.context, "cancel", None)
        quiet = getattr(runtime.context, "quiet", False)
        return cls(models, limits, cancel, runtime.stream_writer, quiet=quiet)

    def emit(self, event: StepEvent) -> None:
        """Put an event on the graph's custom stream."""
        self._emit(event)

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
        update: dict[str, Any] = {
            "answers": messages[-1].id,
            "prompts": self.models.prompts(messages, self.policy),
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

    # --- asking the models ---------------------------------------------------------------

    def write(self, role: Writer, state: ArbitrageState) -> Write:
        """The request for the next step from the state's prefix."""
        from langgraph_arbitrage.engine import Sampling, Write

        limits, steps = self.limits, state["steps"]
        written = sum(len(s["ids"]) for s in steps)
        room = [limits.max_tokens - written, limits.max_step_tokens]
        left = self.policy.tokens_left(step_view(state)) if role == "target" else None
        if left is not None:
            room.append(left)
        reach = max((len(s) for s in limits.stop), default=1) - 1
        return Write(
            ids=self.models.ids(role, state["prompts"], steps),
            max_tokens=max(1, min(room)),
            separators=self.models.settings.separator,
            stop=limits.stop,
            tail="".join(s["text"] for s in steps)[-reach:] if reach else "",
            sampling=Sampling(
                temperature=limits.temperature,
                top_p=limits.top_p,
                top_k=limits.top_k,
                seed=step_seed(state["seed"], role, len(steps)),
            ),
        )

    def pending(self, role: Writer, state: ArbitrageState, written: Written) -> PendingStep:
        """A written step as state."""
        spent = sum(len(s["ids"]) for s in state["steps"]) + len(written.ids)
        goes_on = written.finish in ("separator", "length") and spent < self.limits.max_tokens
        return PendingStep(
            ids=written.ids,
            text=self.models.step_text(
                role,
                state["prompts"],
                state["steps"],
                written.ids,
                ends_answer=not goes_on,
            ),
            logprobs=written.logprobs,
            finish=written.finish,
            fed=written.fed,
            cached=written.cached,
            seconds=written.seconds,
        )


def begins_answer(state: ArbitrageState) -> bool:
    """Whether the next node opens a new answer."""
    if not state.get("prompts") or state.get("finish_reason") is not None:
        return True
    return state["messages"][-1].id != state.get("answers")


def step_view(state: ArbitrageState) -> StepView:
    """What a policy sees of the state."""
    steps = [] if begins_answer(state) else state["steps"]
    return StepView(
        question=last_question(state["messages"]) if state.get("messages") else "",
        history=tuple(
            PastStep(s["writer"], s["text"], len(s["ids"]), tuple(s["memory"])) for s in steps
        ),
        seed=state.get("seed", 0),
        draft=_step_text(state.get("draft_step")),
        target=_step_text(state.get("target_step")),
    )


def _step_text(step: PendingStep | None) -> StepText | None:
    return step and StepText(step["text"], len(step["ids"]), tuple(step["logprobs"]))


def step_seed(seed: int, role: str, index: int) -> int:
    """A seed for each writer and step, so that a resumed run draws what the unbroken one drew."""
    digest = hashlib.blake2b(f"{seed}/{role}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def forwarded(
    draft: PendingStep | None, target: PendingStep | None, verdict: Verdict | None
) -> dict[str, int]:
    """Tokens fed through each model for a step."""
    fed = dict(verdict["fed"]) if verdict else {}
    for role, step in (("draft", draft), ("target", target)):
        if step is not None:
            fed[role] = fed.get(role, 0) + step["fed"]
    return fed
