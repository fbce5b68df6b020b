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
from langgraph_arbitrage.state import ModelIdentity, StepRecord

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Engine, ModelSpec, Tokenizer

__all__ = ["Models"]

WINDOW = 64  # tokens before a step that are decoded with it, so that characters stay whole


class Models:
    """Draft, target and scorers of one graph or chat model, each acquired at its first use."""

    def __init__(self, settings: ArbitrageSettings) -> None:
        self.settings = settings
        self._engines: dict[ModelSpec, Engine] = {}
        self._lock = threading.RLock()
        self._identities: dict[Writer, ModelIdentity] = {}

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
        for role in ("draft", "target"):
            self.identity(role)
        _ = self._shared

    def identity(self, role: Writer) -> ModelIdentity:
        """Which model plays a role, as the state names it."""
        found = self._identities.get(role)
        if found is None:
            from langgraph_arbitrage.engine.fingerprint import fingerprint

            spec = self._spec(role)
            found = ModelIdentity(path=spec.path, digest=fingerprint(spec))
            self._identities[role] = found
        return found

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

    def prompts(
        self, messages: Sequence[BaseMessage], policy: Policy, also: Sequence[Writer] = ()
    ) -> dict[str, list[int]]:
        """The conversation's ids for each model, through its own template.

        Args:
            messages: The conversation.
            policy: Its models, and the target, are those asked for.
            also: Further ones.

        Raises:
            ContextLengthError: It does not fit a model that the policy uses.
            ChatTemplateError: A model has no template, or its template refuses the conversation.
        """
        plain = template_messages(messages)
        # Usage is counted by the target's tokenizer, whoever writes.
        roles: set[Writer] = {*self.roles(policy), *also, "target"}
        found: dict[str, list[int]] = {r: self.tokenizer(r).render(plain) for r in sorted(roles)}
        for role in self.roles(policy):
            engine, tokens = self.engine(role), len(found[role])
            if engine.context is not None and tokens >= engine.context:
                raise ContextLengthError(
                    f"the prompt has {tokens} tokens for the {role} {engine.spec.name}, which "
                    f"reads {engine.context} with the answer. Shorten the conversation or use a "
                    "model with a longer context."
                )
        return found

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
        home = "target" if step["writer"] == "human" else step["writer"]
        if self._shared or home == role:
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
