"""One run of the graph, as a node sees it: limits in force, models, and where events go."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessageChunk
from langgraph.config import get_config
from langgraph.graph.message import push_message
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import Overwrite

from langgraph_arbitrage.approval import asks_approval, confidence
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.models import PLAIN, Models, home
from langgraph_arbitrage.policies import PastStep, StepText, StepView, Writer
from langgraph_arbitrage.prompts import check_conversation, last_question
from langgraph_arbitrage.settings import Context, Limits
from langgraph_arbitrage.speculation import ALWAYS, Guesses, Speculation
from langgraph_arbitrage.state import (
    ArbitrageState,
    ModelIdentity,
    PendingStep,
    StepRecord,
    Verdict,
)
from langgraph_arbitrage.tools.form import AnswerForm, Demands
from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.parser import THINKING, Parser, Piece, open_thinking
from langgraph_arbitrage.tools.verifier import call_fault

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Engine, Write, Written

__all__ = ["Run"]


class Run:
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
        self.models = models
        self.limits = limits or models.limits
        self.policy = self.limits.policy
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

    @property
    def roles(self) -> list[Writer]:
        """The writers of this run; the draft too where it finishes alone at a limit."""
        alone = self.limits.at_limit == "draft" and not self.policy.needs_draft
        return [*(["draft"] if alone else []), *self.models.roles(self.policy)]  # type: ignore[list-item]

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

    # --- asking the models ---------------------------------------------------------------

    def write(self, role: Writer, state: ArbitrageState) -> Write:
        """The request for the next step from the state's prefix."""
        from langgraph_arbitrage.engine import Grammar, Sampling, Write

        limits, steps, demands = self.limits, state["steps"], state["demands"]
        left = limits.max_tokens - sum(len(s["ids"]) for s in steps)
        room = [left, limits.max_step_tokens, self._thinking_left(state, left)]
        if role == "target":
            by_policy = self.policy.tokens_left(step_view(state))
            room += [by_policy] if by_policy is not None else []
            if limits.max_target_tokens:
                budget = limits.max_target_tokens - target_tokens(steps)
                room += [budget] if budget > 0 else []  # a human has approved of more
        reach = max((len(s) for s in limits.stop), default=1) - 1
        lark = demands["grammars"].get(role)
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
            spans=tuple((opening, close) for opening, close in demands["spans"]),
            grammar=Grammar(lark, len(state["prompts"][role]), left) if lark else None,
            proposal=self._proposal(role, state),
        )

    def guesser(self, state: ArbitrageState) -> Engine | None:
        """The draft, where it may propose tokens inside of the target's steps.

        Not where the run is the target's alone, nor under a grammar.
        """
        if self.limits.speculate == "off" or not self.policy.needs_draft:
            return None
        free = "target" not in state["demands"]["grammars"]
        return self.models.engine("draft") if free and self.models.may_guess() else None

    @property
    def speculation(self) -> Speculation:
        """Whether it pays that the draft does so."""
        return ALWAYS if self.limits.speculate == "on" else self.models.speculation

    def _proposal(self, role: Writer, state: ArbitrageState) -> Sequence[int]:
        """The draft's step for the target to verify: what both would write is not written twice."""
        draft = state.get("draft_step")
        if role != "target" or draft is None:
            return ()
        return self.models.crossed(role, "draft", draft["ids"], draft["text"])

    # --- what is written -----------------------------------------------------------------

    def pieces(self, steps: Sequence[StepRecord], tools: Sequence[Tool], text: str) -> list[Piece]:
        """A whole answer taken apart; `text` is that of its steps, or its beginning."""
        parser = self.parser(steps, tools)
        return [*parser.feed(text), *parser.finish()]

    def parser(self, steps: Sequence[StepRecord], tools: Sequence[Tool]) -> Parser:
        """What takes the answer of these steps apart, from its first character on."""
        return self.models.parser([self._first(steps), *self.roles], tools)

    def _first(self, steps: Sequence[StepRecord]) -> Writer:
        return home(steps[0]["writer"]) if steps else self.models.roles(self.policy)[0]

    def call_fault(self, state: ArbitrageState) -> str | None:
        """What is wrong with a tool call in the draft's step; None where nothing is."""
        draft, tools, steps = state.get("draft_step"), state["demands"]["tools"], state["steps"]
        if not tools or draft is None:
            return None
        if draft["finish"] == "length" and self._goes_on(state, draft["ids"]):
            return None  # it is cut, and goes on as the next step
        before = "".join(s["text"] for s in steps)
        known = len(_calls(self.pieces(steps, tools, before)))
        calls = _calls(self.pieces(steps, tools, before + draft["text"]))
        return call_fault(calls[known:], tools)

    def _goes_on(self, state: ArbitrageState, ids: Sequence[int]) -> bool:
        """Whether there is room for more of the answer after these tokens."""
        return sum(len(s["ids"]) for s in state["steps"]) + len(ids) < self.limits.max_tokens

    def token_logprobs(self, steps: Sequence[StepRecord]) -> list[dict[str, Any]]:
        """Each token's text and log-probability, in nats, under the model that wrote it.

        A step that no model here wrote has none.
        """
        return [
            {"token": self.models.tokenizer(home(s["writer"])).token_text(token), "logprob": found}
            for s in steps
            if s["logprobs"]
            for token, found in zip(s["ids"], s["logprobs"], strict=True)
        ]

    def close_thinking(self, record: StepRecord, state: ArbitrageState) -> StepRecord:
        """The record, with an end of the thinking where that has used up its tokens."""
        limit, steps = self.limits.max_thinking_tokens, [*state["steps"], record]
        if limit is None or sum(len(s["ids"]) for s in steps) < limit:
            return record
        close = self._open_thinking(steps)
        if close is None:
            return record
        text = f"\n{close}\n\n"
        ids = self.models.tokenizer(home(record["writer"])).encode(text)
        logprobs = [*record["logprobs"], *[0.0] * len(ids)] if record["logprobs"] else []
        closed: StepRecord = {
            **record,
            "ids": [*record["ids"], *ids],
            "text": record["text"] + text,
            "logprobs": logprobs,
        }
        return closed

    def thinking_tokens(self, steps: Sequence[StepRecord]) -> int:
        """Tokens of the answer up to the end of its thinking, by the target's tokenizer."""
        opened = self.models.template(self._first(steps)).opened if steps else None
        tokenizer = self.models.tokenizer("target")
        total, text = 0, ""
        for step in steps:
            before, text = text, text + step["text"]
            ids = self.models.step_ids("target", step)
            if open_thinking(text, opened) is not None:
                total += len(ids)
                continue
            close = open_thinking(before, opened)
            ends = [step["text"].rfind(mark) for _, mark in THINKING if close in (None, mark)]
            if max(ends) >= 0:
                total += sum(
                    len(tokenizer.decode(ids[:n])) <= max(ends) for n in range(1, len(ids))
                )
        return total

    def _open_thinking(self, steps: Sequence[StepRecord]) -> str | None:
        """What would close the thinking that the answer stands in; None where it is in none."""
        text = "".join(step["text"] for step in steps)
        return open_thinking(text, self.models.template(self._first(steps)).opened)

    def _thinking_left(self, state: ArbitrageState, most: int) -> int:
        """Most tokens of the next step, if it may be thinking."""
        limit, steps = self.limits.max_thinking_tokens, state["steps"]
        if limit is None:
            return most
        templates = [self.models.template(role) for role in self.roles]
        begins = not steps and any(template.thinks for template in templates)
        if not begins and self._open_thinking(steps) is None:
            return most
        return max(1, limit - sum(len(s["ids"]) for s in steps))

    def pending(
        self,
        role: Writer,
        state: ArbitrageState,
        written: Written,
        guesses: Guesses = Guesses(),  # noqa: B008 - frozen
    ) -> PendingStep:
        """A written step as state, and what the draft has guessed inside of it."""
        goes_on = written.finish in ("separator", "length") and self._goes_on(state, written.ids)
        return PendingStep(
            writer=role,
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
            kept=written.kept,
            speculated=guesses.proposed,
            speculated_kept=guesses.kept,
            draft_fed=guesses.fed,
            seconds=written.seconds,
        )


def _leads_nowhere(write: Callable[[Any], None]) -> bool:
    """Whether this is what LangGraph gives a node where nobody reads the custom stream.

    That has nothing to write to: it closes over nothing.
    """
    own = getattr(write, "__module__", "").startswith("langgraph.")
    return own and getattr(write, "__closure__", write) is None


def _calls(pieces: Sequence[Piece]) -> list[ParsedCall]:
    return [piece.call for piece in pieces if piece.call is not None]


def begins_answer(state: ArbitrageState) -> bool:
    """Whether the next node opens a new answer."""
    if not state.get("prompts") or state.get("finish_reason") is not None:
        return True
    return state["messages"][-1].id != state.get("answers")


def steps_so_far(state: ArbitrageState) -> list[StepRecord]:
    """The steps of the answer under way."""
    return [] if begins_answer(state) else state["steps"]


def step_view(state: ArbitrageState) -> StepView:
    """What a policy sees of the state. A human's step counts as one of the target's."""
    return StepView(
        question=last_question(state["messages"]) if state.get("messages") else "",
        history=tuple(
            PastStep(
                "draft" if s["writer"] == "draft" else "target",
                s["text"],
                len(s["ids"]),
                tuple(s["memory"]),
            )
            for s in steps_so_far(state)
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
    for step in (draft, target):
        if step is not None and step["writer"] != "human":
            fed[step["writer"]] = fed.get(step["writer"], 0) + step["fed"]
            if step["draft_fed"]:
                fed["draft"] = fed.get("draft", 0) + step["draft_fed"]
    return fed


def target_tokens(steps: Sequence[StepRecord]) -> int:
    """Tokens that the target wrote, those of discarded steps included."""
    return sum(
        len(s["ids"]) if s["writer"] == "target" else s["discarded"]
        for s in steps
        if s["writer"] != "human"  # what that discarded was the draft's
    )


def answer_id(state: ArbitrageState) -> str:
    """Id of the answer's message, the same after a resumption."""
    return f"answer-{state['answers']}"


_NO_CONTEXT = Context()
_EMPTY = StepEvent(thread=None, step=0, writer=None, text="", score=None, tokens=0, seconds=0.0)
