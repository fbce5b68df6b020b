"""The models of a team: which engine plays which role, and how token ids pass between them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage

from langgraph_arbitrage.errors import ContextLengthError
from langgraph_arbitrage.policies import Policy, Writer
from langgraph_arbitrage.prompts import template_messages
from langgraph_arbitrage.settings import ArbitrageSettings
from langgraph_arbitrage.state import StepRecord
from langgraph_arbitrage.template import Template, template_of
from langgraph_arbitrage.tools.form import AnswerForm, Demands, answer_parser
from langgraph_arbitrage.tools.formats import Tool
from langgraph_arbitrage.tools.parser import Parser

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Engine, ModelSpec, Tokenizer

__all__ = ["Models"]

PLAIN = AnswerForm()
WINDOW = 64  # tokens before a step that are decoded with it, so that characters stay whole


class Models:
    """Draft, target and scorers of one graph or chat model, each acquired at its first use."""

    def __init__(self, settings: ArbitrageSettings) -> None:
        self.settings = settings
        self._engines: dict[ModelSpec, Engine] = {}
        self._lock = threading.RLock()

    # --- engines -------------------------------------------------------------------------

    def engine(self, role: Writer) -> Engine:
        """The engine of the draft or the target; its weights load at its first request."""
        return self._acquire(self._spec(role))

    def scorer(self, model: str, kind: str) -> Engine:
        """The engine of a classifier that a policy asks."""
        from langgraph_arbitrage.engine import ModelSpec

        s = self.settings
        return self._acquire(ModelSpec(model, kind=kind, device=s.device, dtype=s.dtype))  # type: ignore[arg-type]

    def _spec(self, role: Writer) -> ModelSpec:
        from langgraph_arbitrage.engine import ModelSpec

        s = self.settings
        return ModelSpec(
            path=s.draft if role == "draft" else s.target,
            revision=s.draft_revision if role == "draft" else s.target_revision,
            device=s.device,
            dtype=s.dtype,
            trust_remote_code=s.trust_remote_code,
            chat_template=s.chat_template,
            max_slots=s.max_slots,
            model_kwargs=s.model_kwargs,
        )

    def _acquire(self, spec: ModelSpec) -> Engine:
        from langgraph_arbitrage.engine import acquire

        engine = self._engines.get(spec)
        if engine is None:
            with self._lock:
                engine = self._engines.get(spec)
                if engine is None:
                    engine = self._engines[spec] = acquire(spec)
        return engine

    @property
    def ready(self) -> bool:
        """Whether the tokenizers are loaded, so that no call blocks on files."""
        return "_shared" in self.__dict__

    def prepare(self, policy: Policy) -> None:
        """Check the checkpoints that the policy uses and load the tokenizers; blocks on files."""
        for role in self.roles(policy):
            self.engine(role)
        _ = self._shared

    def close(self) -> None:
        """Give the engines back; a model without another user is unloaded."""
        from langgraph_arbitrage.engine import release

        with self._lock:
            for engine in self._engines.values():
                release(engine)
            self._engines.clear()
            self.__dict__.pop("_shared", None)

    @staticmethod
    def roles(policy: Policy) -> list[Writer]:
        """The writers that a policy uses."""
        used: list[tuple[Writer, bool]] = [
            ("draft", policy.needs_draft),
            ("target", policy.needs_target),
        ]
        return [role for role, needed in used if needed]

    def backends(self, roles: Sequence[Writer]) -> dict[str, str]:
        """How the models of these roles run: `slot` or `plain`."""
        found = {role: self.engine(role).backend for role in roles}
        return {role: backend for role, backend in found.items() if backend}

    # --- token ids -----------------------------------------------------------------------

    def tokenizer(self, role: Writer) -> Tokenizer:
        """A writer's tokenizer; the model itself need not be loaded."""
        from langgraph_arbitrage.engine import load_tokenizer

        return load_tokenizer(self._spec(role))

    @cached_property
    def _shared(self) -> bool:
        return self.tokenizer("draft").shares_vocabulary(self.tokenizer("target"))

    def template(self, role: Writer) -> Template:
        """What a writer's chat template renders, and how it writes calls."""
        return template_of(self.tokenizer(role))

    def prompts(
        self, messages: Sequence[BaseMessage], policy: Policy, form: AnswerForm = PLAIN
    ) -> dict[str, list[int]]:
        """The conversation's ids for each model, through its own template.

        Raises:
            ContextLengthError: It does not fit a model that the policy uses.
            ChatTemplateError: A model has no template, or its template refuses the conversation.
        """
        plain = template_messages(messages)
        # Usage is counted by the target's tokenizer, whoever writes.
        roles: set[Writer] = {*self.roles(policy), "target"}
        found: dict[str, list[int]] = {
            r: self.template(r).render(plain, form.tools, form.note) for r in sorted(roles)
        }
        for role in self.roles(policy):
            engine, tokens = self.engine(role), len(found[role])
            if engine.context is not None and tokens >= engine.context:
                raise ContextLengthError(
                    f"the prompt has {tokens} tokens for the {role} {engine.spec.name}, which "
                    f"reads {engine.context} with the answer. Shorten the conversation or use a "
                    "model with a longer context."
                )
        return found

    def demands(self, form: AnswerForm, policy: Policy) -> Demands:
        """The form of an answer for each writer that the policy uses, compiled once.

        Raises:
            GrammarError: A schema cannot be compiled, or calls cannot be forced.
            MissingExtraError: The answer is to be forced, and llguidance is not installed.
        """
        demands = form.demands(
            {role: self.template(role) for role in self.roles(policy)},
            lambda role: self.engine(role).grammar_marks(),  # type: ignore[arg-type]
        )
        for role, grammar in demands["grammars"].items():
            self.engine(role).check_grammar(grammar)  # type: ignore[arg-type]
        return demands

    def parser(self, writers: Sequence[Writer], tools: Sequence[Tool]) -> Parser:
        """The parser of an answer, for its writers, that of the first step first."""
        return answer_parser([self.template(role) for role in dict.fromkeys(writers)], tools)

    def ids(
        self, role: Writer, prompts: Mapping[str, list[int]], steps: Sequence[StepRecord]
    ) -> list[int]:
        """All token ids so far as a model reads them: prompt and steps.

        With one vocabulary ids pass unchanged; else the other model's steps cross as text.
        """
        ids = list(prompts[role])
        for step in steps:
            ids += self.step_ids(role, step)
        return ids

    def step_ids(self, role: Writer, step: StepRecord) -> list[int]:
        """A step's ids in a model's vocabulary."""
        if self._shared or step["writer"] == role:
            return step["ids"]
        return list(_encoded(self.tokenizer(role), step["text"]))

    @staticmethod
    def pieces(engine: Engine, pieces: Sequence[str]) -> list[Sequence[int]]:
        """Ids of each piece of a text, tokenized on its own, after the tokenizer's own start."""
        tokenizer = engine.tokenizer
        return [tokenizer.start_ids, *(_encoded(tokenizer, piece) for piece in pieces)]

    def step_text(
        self,
        role: Writer,
        prompts: Mapping[str, list[int]],
        steps: Sequence[StepRecord],
        ids: Sequence[int],
        *,
        ends_answer: bool = False,
    ) -> str:
        """Text that `ids` add to the answer so far.

        A character whose bytes are not all written yet is left to the next step.
        """
        before: list[int] = []
        for step in reversed(steps):
            if len(before) >= WINDOW:
                break
            before = self.step_ids(role, step) + before
        before = (prompts[role][-1:] + before)[-WINDOW:]
        tokenizer = self.tokenizer(role)
        shown = tokenizer.decode(before).rstrip("\ufffd")
        text = tokenizer.decode([*before, *ids])
        text = text[len(shown) :]
        return text if ends_answer else text.rstrip("\ufffd")


@lru_cache(maxsize=4096)
def _encoded(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """A step is tokenized once, however often the steps so far are put together."""
    return tuple(tokenizer.encode(text))
