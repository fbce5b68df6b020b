"""Builds generation requests from the state, and state from their outputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_arbitrage.config.run_options import MAX_TOKENS
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.decoding.blocks import open_block
from langgraph_arbitrage.loop.answer_state import joined_text, step_seed, step_view, target_tokens
from langgraph_arbitrage.loop.models import Models, vocabulary_owner
from langgraph_arbitrage.loop.thinking import ThinkingBudget
from langgraph_arbitrage.models.generation_config import GenerationDefaults, TokenRules
from langgraph_arbitrage.policies import StepView, Writer
from langgraph_arbitrage.state import ArbitrageState, PendingStep, StepRecord
from langgraph_arbitrage.tools.formats import ParsedCall, Tool
from langgraph_arbitrage.tools.parser import Parser, Piece
from langgraph_arbitrage.tools.verifier import call_error

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import GenerateOutput, GenerateRequest, SamplingParams

__all__ = ["Generation"]

_T = TypeVar("_T")


class Generation:
    """Builds generation requests and steps under the settings of a run.

    Args:
        models: The models.
        settings: The run's settings.
    """

    def __init__(self, models: Models, settings: RunSettings) -> None:
        self.models = models
        self.settings = settings
        self.policy = settings.policy

    @property
    def roles(self) -> list[Writer]:
        """The writers of this run, including a draft that finishes the answer alone at a limit."""
        alone = self.settings.at_limit == "draft" and not self.policy.needs_draft
        return [*(["draft"] if alone else []), *self.models.roles(self.policy)]  # type: ignore[list-item]

    @property
    def thinking(self) -> ThinkingBudget:
        """The thinking budget of this run."""
        return ThinkingBudget(self.models, self.roles, self.settings)

    @cached_property
    def defaults(self) -> GenerationDefaults:
        """The generation settings of the target's checkpoint, or of the draft's if it is alone."""
        return self.models.generation_defaults("target" if self.policy.needs_target else "draft")

    @cached_property
    def max_tokens(self) -> int:
        """Maximum tokens of an answer."""
        if self.settings.max_tokens is not None:
            return self.settings.max_tokens
        return min(MAX_TOKENS, self.defaults.max_new_tokens or MAX_TOKENS)

    @cached_property
    def sampling(self) -> SamplingParams:
        """Sampling parameters of both models: explicit settings, else the checkpoint's defaults."""
        from langgraph_arbitrage.engine import SamplingParams

        settings, defaults = self.settings, self.defaults
        temperature = settings.temperature
        if temperature is None:
            temperature = 0.0
            if defaults.do_sample:
                temperature = 1.0 if defaults.temperature is None else defaults.temperature
        if temperature > 0 and isinstance(settings.threshold, str):
            warnings.warn(
                f"threshold={settings.threshold!r} was calibrated with greedy decoding, and this "
                f"run samples with temperature {temperature:g}, so the rate or loss may differ. "
                "Set temperature=0, or a number as the threshold.",
                stacklevel=2,
            )
        return SamplingParams(
            temperature=temperature,
            top_p=_first(settings.top_p, defaults.top_p, 1.0),
            top_k=_first(settings.top_k, defaults.top_k, 0),
            min_p=_first(settings.min_p, defaults.min_p, 0.0),
            rules=defaults.rules,
        )

    def _rules(self, role: Writer) -> TokenRules:
        """Return the token rules for a writer. Token ids come from the writer's own checkpoint."""
        rules = self.defaults.rules
        if self.models.share_vocabulary:
            return rules
        own = self.models.generation_defaults(role).rules
        return replace(
            rules,
            suppress_tokens=own.suppress_tokens,
            begin_suppress_tokens=own.begin_suppress_tokens,
            bad_words_ids=own.bad_words_ids,
        )

    def request(
        self,
        role: Writer,
        state: ArbitrageState,
        *,
        verify_only: bool = False,
        begun: GenerateOutput | None = None,
    ) -> GenerateRequest:
        """Build the request for the next step after the state's prefix.

        Args:
            role: The writer.
            state: The state.
            verify_only: Only verify and score the draft's step.
            begun: Output of the `verify_only` request for this step.
        """
        from langgraph_arbitrage.engine import GenerateRequest, Grammar

        settings, steps, constraints = self.settings, state["steps"], state["constraints"]
        left = self.max_tokens - sum(len(s["ids"]) for s in steps)
        bounds = [left, settings.max_step_tokens, self.thinking.tokens_left(steps)]
        if role == "target":
            bounds.append(self.policy.tokens_left(self.view(state)))
            if settings.max_target_tokens:
                budget = settings.max_target_tokens - target_tokens(steps)
                bounds.append(budget if budget > 0 else None)  # a human has approved further tokens
        reach = max((len(s) for s in settings.stop), default=1) - 1
        grammar = constraints["grammars"].get(role)
        return GenerateRequest(
            ids=self.models.input_ids(role, state["prompts"], steps),
            max_tokens=max(1, min(bound for bound in bounds if bound is not None)),
            separators=self.models.settings.separator,
            min_step_tokens=settings.min_step_tokens,
            block=open_block(joined_text(steps)) or "",
            stop=settings.stop,
            stop_token_ids=self._stop_token_ids(role),
            tail=joined_text(steps)[-reach:] if reach else "",
            sampling=replace(
                self.sampling,
                rules=self._rules(role),
                seed=step_seed(state["seed"], role, len(steps)),
            ),
            answer_start=len(state["prompts"][role]),
            spans=tuple((opening, close) for opening, close in constraints["spans"]),
            grammar=Grammar(grammar, len(state["prompts"][role]), left) if grammar else None,
            draft_tokens=() if begun else self._draft_tokens(role, state),
            verify_only=verify_only,
            begun=begun,
        )

    def view(self, state: ArbitrageState) -> StepView:
        """Return the policy's view of the state."""
        view = step_view(state)
        steps = state["steps"] if view.history else []
        return replace(view, thinking=True) if self.thinking.is_open(steps) else view

    @staticmethod
    def verified(state: ArbitrageState) -> GenerateOutput | None:
        """Return the beginning of the target's step, if the policy made the target verify it."""
        from langgraph_arbitrage.engine import GenerateOutput

        decision = state.get("decision")
        tokens = decision.get("verified") if decision else None
        if not tokens:
            return None
        return GenerateOutput(
            ids=tokens["ids"],
            logprobs=tokens["logprobs"],
            finish=tokens["finish_reason"],  # type: ignore[arg-type]
            computed_tokens=0,  # these tokens are counted in the decision
            cached_tokens=0,
            accepted_draft_tokens=tokens["accepted_draft_tokens"],
            seconds=0.0,
        )

    def _stop_token_ids(self, role: Writer) -> tuple[int, ...]:
        """Return the ids of `stop_token_ids` and of stop strings that name an added token.

        Added tokens such as `<|im_end|>` are not part of the text, so no stop string finds them.
        """
        tokenizer = self.models.tokenizer(role)
        named = [tokenizer.added_token_id(text) for text in self.settings.stop]
        ids = self.settings.stop_token_ids
        if role == "draft" and ids and not self.models.share_vocabulary:
            target = self.models.tokenizer("target")
            named += [tokenizer.added_token_id(target.raw_token(token)) for token in ids]
            ids = ()
        return (*ids, *(token for token in named if token is not None))

    def _draft_tokens(self, role: Writer, state: ArbitrageState) -> Sequence[int]:
        """Return the draft's step in the target's vocabulary, for the target to verify."""
        draft = state.get("draft_step")
        if role != "target" or draft is None:
            return ()
        ids = self.models.convert_ids(role, "draft", draft["ids"], draft["text"])
        end = self.models.tokenizer(role).hf.eos_token_id
        if ids is not draft["ids"] and draft["finish_reason"] == "end" and end is not None:
            return [*ids, end]  # the text does not contain the draft's end token
        return ids

    def pending(self, role: Writer, state: ArbitrageState, output: GenerateOutput) -> PendingStep:
        """Convert an output to a pending step."""
        cut = ("separator", "length", *(["context"] if self._is_secondary(role) else []))
        continues = output.finish in cut and self._has_room(state, output.ids)
        return PendingStep(
            writer=role,
            ids=output.ids,
            text=self.models.decode_step(
                role, state["prompts"], state["steps"], output.ids, ends_answer=not continues
            ),
            logprobs=output.logprobs,
            finish_reason=output.finish,
            computed_tokens=output.computed_tokens,
            cached_tokens=output.cached_tokens,
            accepted_draft_tokens=output.accepted_draft_tokens,
            seconds=output.seconds,
        )

    def _is_secondary(self, role: Writer) -> bool:
        """Return True for a draft whose answer the target can continue."""
        return role == "draft" and self.policy.needs_target

    def parser(self, steps: Sequence[StepRecord], tools: Sequence[Tool]) -> Parser:
        """Create a parser for the whole answer that begins with these steps."""
        first = vocabulary_owner(steps[0]["writer"]) if steps else self.roles[0]
        return self.models.parser([first, *self.roles], tools, self.settings)

    def invalid_call(self, state: ArbitrageState) -> str | None:
        """Return why a tool call in the draft's step is invalid; None if all calls are valid."""
        draft, tools = state.get("draft_step"), state["constraints"]["tools"]
        if not tools or draft is None:
            return None
        if draft["finish_reason"] == "length" and self._has_room(state, draft["ids"]):
            return None  # the call continues in the next step
        parser = self.parser(state["steps"], tools)
        parser.feed(joined_text(state["steps"]))
        pieces = [*parser.feed(draft["text"]), *parser.finish()]
        return call_error(_calls(pieces), tools)

    def _has_room(self, state: ArbitrageState, ids: Sequence[int]) -> bool:
        """Return True if `max_tokens` allows further tokens after these."""
        return sum(len(s["ids"]) for s in state["steps"]) + len(ids) < self.max_tokens

    def token_logprobs(self, steps: Sequence[StepRecord]) -> list[dict[str, Any]]:
        """Return text, UTF-8 bytes and log-probability (nats) of each token under its writer.

        Steps by a human, and steps of servers without log-probabilities, are left out.
        """
        return [
            {
                "token": tokenizer.token_text(token),
                "logprob": logprob,
                "bytes": tokenizer.token_bytes(token),
            }
            for s in steps
            if s["logprobs"]
            for tokenizer in (self.models.tokenizer(vocabulary_owner(s["writer"])),)
            for token, logprob in zip(s["ids"], s["logprobs"], strict=True)
        ]


def _first(*values: _T | None) -> _T:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)


def _calls(pieces: Sequence[Piece]) -> list[ParsedCall]:
    return [piece.call for piece in pieces if piece.call is not None]
