"""The steps of an answer: what is asked of the models, and what they have written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.answer_state import step_seed, step_view, target_tokens
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.models.pair import Models, home
from langgraph_arbitrage.policies import Writer
from langgraph_arbitrage.state import ArbitrageState, PendingStep, StepRecord
from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.parser import THINKING, Parser, Piece, open_thinking
from langgraph_arbitrage.tools.verifier import call_fault

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import GenerateOutput, GenerateRequest

__all__ = ["Writing"]


class Writing:
    """How steps are written under these limits.

    Args:
        models: The models.
        limits: Policy, sampling and limits in force.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.policy = limits.policy

    @property
    def roles(self) -> list[Writer]:
        """The writers of this run; the draft too where it finishes alone at a limit."""
        alone = self.limits.at_limit == "draft" and not self.policy.needs_draft
        return [*(["draft"] if alone else []), *self.models.roles(self.policy)]  # type: ignore[list-item]

    # --- asking the models ---------------------------------------------------------------

    def write(self, role: Writer, state: ArbitrageState) -> GenerateRequest:
        """The request for the next step from the state's prefix."""
        from langgraph_arbitrage.engine import GenerateRequest, Grammar, SamplingParams

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
        return GenerateRequest(
            ids=self.models.ids(role, state["prompts"], steps),
            max_tokens=max(1, min(room)),
            separators=self.models.settings.separator,
            stop=limits.stop,
            tail="".join(s["text"] for s in steps)[-reach:] if reach else "",
            sampling=SamplingParams(
                temperature=limits.temperature,
                top_p=limits.top_p,
                top_k=limits.top_k,
                seed=step_seed(state["seed"], role, len(steps)),
            ),
            spans=tuple((opening, close) for opening, close in demands["spans"]),
            grammar=Grammar(lark, len(state["prompts"][role]), left) if lark else None,
            draft_tokens=self._draft_tokens(role, state),
        )

    def _draft_tokens(self, role: Writer, state: ArbitrageState) -> Sequence[int]:
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

    def pending(
        self,
        role: Writer,
        state: ArbitrageState,
        written: GenerateOutput,
    ) -> PendingStep:
        """A generated step as state."""
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
            fed=written.computed_tokens,
            cached=written.cached_tokens,
            kept=written.accepted_draft_tokens,
            seconds=written.seconds,
        )

    # --- how much of it is thinking -------------------------------------------------------

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


def _calls(pieces: Sequence[Piece]) -> list[ParsedCall]:
    return [piece.call for piece in pieces if piece.call is not None]
