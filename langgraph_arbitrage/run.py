"""One run of the graph, as a node sees it: limits in force, models, and where events go."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langgraph.runtime import get_runtime
from langgraph.types import Overwrite

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.policies import PastStep, StepText, StepView, Writer
from langgraph_arbitrage.prompts import check_conversation, last_question
from langgraph_arbitrage.settings import Context, Limits
from langgraph_arbitrage.state import ArbitrageState, PendingStep, StepRecord
from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.parser import THINKING, Piece, open_thinking
from langgraph_arbitrage.tools.verifier import call_fault

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Write, Written

__all__ = ["Run"]


class Run:
    """What the nodes share, made afresh at each node from the graph's models and the context."""

    def __init__(self, models: Models) -> None:
        runtime = get_runtime(Context)
        self.models = models
        self.limits = Limits.of(models.settings).overridden(runtime.context)
        self.policy = self.limits.policy
        self.cancel = getattr(runtime.context, "cancel", None)
        given: Any = runtime.context  # None where a caller gives none
        self._context: Context = given or Context()
        self._emit: Callable[[Any], None] = runtime.stream_writer

    def emit(self, event: StepEvent) -> None:
        """Put an event on the graph's custom stream."""
        self._emit(event)

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
        form = self._context.form
        update: dict[str, Any] = {
            "answers": messages[-1].id,
            "prompts": self.models.prompts(messages, self.policy, form),
            "demands": self.models.demands(form, self.policy),
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
        from langgraph_arbitrage.engine import Grammar, Sampling, Write

        limits, steps, demands = self.limits, state["steps"], state["demands"]
        left = limits.max_tokens - sum(len(s["ids"]) for s in steps)
        reach = max((len(s) for s in limits.stop), default=1) - 1
        lark = demands["grammars"].get(role)
        return Write(
            ids=self.models.ids(role, state["prompts"], steps),
            max_tokens=max(1, min(left, limits.max_step_tokens, self._thinking_left(state, left))),
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
        )

    # --- what is written -----------------------------------------------------------------

    def pieces(self, steps: Sequence[StepRecord], tools: Sequence[Tool], text: str) -> list[Piece]:
        """A whole answer taken apart; `text` is that of its steps, or its beginning."""
        first = steps[0]["writer"] if steps else self.models.roles(self.policy)[0]
        parser = self.models.parser([first, *self.models.roles(self.policy)], tools)
        return [*parser.feed(text), *parser.finish()]

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
        """Each token's text and log-probability, in nats, under the model that wrote it."""
        return [
            {"token": self.models.tokenizer(s["writer"]).token_text(token), "logprob": logprob}
            for s in steps
            for token, logprob in zip(s["ids"], s["logprobs"], strict=True)
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
        ids = self.models.tokenizer(record["writer"]).encode(text)
        logprobs = [*record["logprobs"], *[0.0] * len(ids)] if self.limits.logprobs else []
        closed: StepRecord = {
            **record,
            "ids": [*record["ids"], *ids],
            "text": record["text"] + text,
            "logprobs": logprobs,
        }
        return closed

    def thinking_tokens(self, steps: Sequence[StepRecord]) -> int:
        """Tokens of the answer up to the end of its thinking, by the target's tokenizer."""
        opened = self.models.template(steps[0]["writer"]).opened if steps else None
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
        first = steps[0]["writer"] if steps else self.models.roles(self.policy)[0]
        text = "".join(step["text"] for step in steps)
        return open_thinking(text, self.models.template(first).opened)

    def _thinking_left(self, state: ArbitrageState, most: int) -> int:
        """Most tokens of the next step, if it may be thinking."""
        limit, steps = self.limits.max_thinking_tokens, state["steps"]
        if limit is None:
            return most
        templates = [self.models.template(role) for role in self.models.roles(self.policy)]
        begins = not steps and any(template.thinks for template in templates)
        if not begins and self._open_thinking(steps) is None:
            return most
        return max(1, limit - sum(len(s["ids"]) for s in steps))

    def pending(self, role: Writer, state: ArbitrageState, written: Written) -> PendingStep:
        """A written step as state."""
        goes_on = written.finish in ("separator", "length") and self._goes_on(state, written.ids)
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


def _calls(pieces: Sequence[Piece]) -> list[ParsedCall]:
    return [piece.call for piece in pieces if piece.call is not None]


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


def forwarded(*fed: tuple[str, Mapping[str, Any] | None]) -> dict[str, int]:
    """Tokens fed through each model for a step."""
    return {role: part["fed"] for role, part in fed if part is not None}
