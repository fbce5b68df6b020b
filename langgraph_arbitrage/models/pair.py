"""The models of a team: which engine plays which role, and how token ids pass between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from langgraph_arbitrage.errors import ContextLengthError
from langgraph_arbitrage.forks import ForkLock
from langgraph_arbitrage.limits import Limits
from langgraph_arbitrage.policies import Ask, AskTarget, Policy, Writer
from langgraph_arbitrage.prompts import template_messages
from langgraph_arbitrage.settings import ArbitrageSettings
from langgraph_arbitrage.state import ModelIdentity, StepRecord, StepWriter
from langgraph_arbitrage.template import Template, template_of
from langgraph_arbitrage.tools.form import AnswerForm, Demands, answer_parser
from langgraph_arbitrage.tools.formats import Tool
from langgraph_arbitrage.tools.parser import Parser

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Engine, ModelSpec, ScoreRequest, Tokenizer

__all__ = ["PLAIN", "Models", "home", "piece_ids"]

PLAIN = AnswerForm()
WINDOW = 64  # tokens before a step that are decoded with it, so that characters stay whole
_LOADED_ALIKE = (
    *("device", "dtype", "trust_remote_code", "chat_template", "max_slots", "max_queue"),
    *("batch_invariant", "engine", "cuda_graphs"),
)
_loaded_by = attrgetter(
    *("draft", "target", "draft_revision", "target_revision"),
    *("model_kwargs", "draft_kwargs", "target_kwargs", *_LOADED_ALIKE),
)


class Models:
    """Draft, target and scorers of one graph or chat model, each acquired at its first use."""

    def __init__(self, settings: ArbitrageSettings) -> None:
        self.settings = settings
        self._engines: dict[ModelSpec, Engine] = {}
        self._tokenizers: dict[ModelSpec, Tokenizer] = {}
        self._lock = ForkLock()
        self._identities: dict[Writer, ModelIdentity] = {}
        self._limits: tuple[tuple[Any, ...], Limits] | None = None
        self._specs: dict[Writer, tuple[tuple[Any, ...], ModelSpec]] = {}

    # --- engines -------------------------------------------------------------------------

    def engine(self, role: Writer) -> Engine:
        """The engine of the draft or the target; its weights load at its first request."""
        return self._acquire(self._spec(role))

    def scorer(self, model: str, kind: str) -> Engine:
        """The engine of a scorer that a policy asks."""
        from langgraph_arbitrage.engine import ModelSpec

        s = self.settings
        return self._acquire(
            ModelSpec(
                model,
                kind=kind,  # type: ignore[arg-type]
                device=s.device,
                dtype=s.dtype,
                max_slots=s.max_slots,
                batch_invariant=s.batch_invariant,
                engine=s.engine,
                cuda_graphs=s.cuda_graphs,
            )
        )

    def asked(self, ask: Ask) -> tuple[Engine, ScoreRequest]:
        """Whom a policy's or a scorer's question goes to, and the request."""
        from langgraph_arbitrage.engine import ScoreRequest

        engine = self.scorer(ask.model, ask.kind)
        pieces = piece_ids(engine.tokenizer, ask.pieces)
        choices: tuple[int, ...] = ()
        if ask.choices:
            pieces[-1], choices = _choices(engine.tokenizer, ask.pieces[-1], ask.choices)
        ids = [token for piece in pieces for token in piece]
        scored = sum(len(piece) for piece in pieces[-ask.scored :])
        return engine, ScoreRequest(ids, start=max(1, len(ids) - scored), choices=choices)

    def asked_target(
        self,
        ask: AskTarget,
        prompts: Mapping[str, list[int]],
        steps: Sequence[StepRecord],
        draft: Sequence[int],
    ) -> tuple[Engine, ScoreRequest]:
        """The request that puts a policy's question to the target, behind the draft's step.

        Args:
            ask: The question.
            prompts: The conversation's ids for each model.
            steps: The steps so far.
            draft: The draft's step, in the target's vocabulary.
        """
        from langgraph_arbitrage.engine import ScoreRequest

        engine, tokenizer = self.engine("target"), self.tokenizer("target")
        turn = _next_turn(tokenizer, ask.question)
        text, choices = _choices(tokenizer, ask.reply, ask.choices)
        ids = [*self.ids("target", prompts, steps), *draft]
        if turn[:1] == tuple(ids[-1:]):  # the answer has ended, as the template ends it too
            turn = turn[1:]
        return engine, ScoreRequest([*ids, *turn, *text], choices=choices)

    @property
    def limits(self) -> Limits:
        """The settings' own limits, made again only where a setting has been changed."""
        values, found = Limits.values(self.settings), self._limits
        if found is None or found[0] != values:
            self._limits = found = values, Limits.of(self.settings)
        return found[1]

    def _spec(self, role: Writer) -> ModelSpec:
        from langgraph_arbitrage.engine import ModelSpec

        s = self.settings
        # A graph asks for it several times a step: the same values are made a spec of once.
        values = _loaded_by(s)
        found = self._specs.get(role)
        if found is None or found[0] != values:
            draft = role == "draft"
            spec = ModelSpec(
                path=s.draft if draft else s.target,
                revision=s.draft_revision if draft else s.target_revision,
                model_kwargs=s.model_kwargs | (s.draft_kwargs if draft else s.target_kwargs),
                **{name: getattr(s, name) for name in _LOADED_ALIKE},
            )
            self._specs[role] = found = values, spec
        return found[1]

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
        for engine in self.meet(policy):
            _ = engine.tokenizer
        for role in ("draft", "target"):
            self.identity(role)
        _ = self._shared

    def meet(self, policy: Policy) -> list[Engine]:
        """The engines of the policy's scorers, once the policy has seen the pair.

        Raises:
            SettingsError: The policy is not for this pair.
            CheckpointError: A scorer's checkpoint cannot be used.
        """
        policy.meet(self.settings.draft, self.settings.target)
        return [self.scorer(model, kind) for model, kind in policy.scorers()]

    def identity(self, role: Writer) -> ModelIdentity:
        """Which model plays a role, as the state names it."""
        found = self._identities.get(role)
        if found is None:
            from langgraph_arbitrage.models.fingerprint import fingerprint

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
            self._tokenizers.clear()
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

        spec = self._spec(role)
        found = self._tokenizers.get(spec)
        if found is None:
            found = self._tokenizers[spec] = load_tokenizer(spec)
        return found

    @cached_property
    def _shared(self) -> bool:
        return self.tokenizer("draft").shares_vocabulary(self.tokenizer("target"))

    def template(self, role: Writer) -> Template:
        """What a writer's chat template renders, and how it writes calls."""
        return template_of(self.tokenizer(role))

    def prompts(
        self,
        messages: Sequence[BaseMessage],
        policy: Policy,
        also: Sequence[Writer] = (),
        form: AnswerForm = PLAIN,
    ) -> dict[str, list[int]]:
        """The conversation's ids for each model, through its own template.

        Args:
            messages: The conversation.
            policy: Its models, and the target, are those asked for.
            also: Further ones.
            form: What the answer may be.

        Raises:
            ContextLengthError: It does not fit a model that the policy uses.
            ChatTemplateError: A model has no template, or its template refuses the conversation.
            SettingsError: The policy is not for this pair of models.
        """
        self.meet(policy)
        plain = template_messages(messages)
        # Usage is counted by the target's tokenizer, whoever writes.
        roles: set[Writer] = {*self.roles(policy), *also, "target"}
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

    def demands(self, form: AnswerForm, roles: Sequence[Writer]) -> Demands:
        """The form of an answer for each of these writers, compiled once.

        Raises:
            GrammarError: A schema cannot be compiled, or calls cannot be forced.
            MissingExtraError: The answer is to be forced, and llguidance is not installed.
        """
        demands = form.demands(
            {role: self.template(role) for role in roles},
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
        return self.crossed(role, step["writer"], step["ids"], step["text"])

    def crossed(self, role: Writer, writer: StepWriter, ids: list[int], text: str) -> list[int]:
        """The ids of what was written, in a model's vocabulary; a human's are in the target's."""
        if self._shared or home(writer) == role:
            return ids
        return list(_encoded(self.tokenizer(role), text))

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


def home(writer: StepWriter) -> Writer:
    """The model in whose vocabulary a writer's ids are."""
    return "target" if writer == "human" else writer


def piece_ids(tokenizer: Tokenizer, pieces: Sequence[str]) -> list[Sequence[int]]:
    """Ids of each piece of a text, tokenized on its own, after the tokenizer's own start."""
    first, *others = pieces
    begun = _encoded(tokenizer, first, begins=True)
    return [tokenizer.start_ids, begun, *(_encoded(tokenizer, piece) for piece in others)]


@lru_cache(maxsize=4096)
def _encoded(tokenizer: Tokenizer, text: str, *, begins: bool = False) -> tuple[int, ...]:
    """A step is tokenized once, however often the steps so far are put together."""
    return tuple(tokenizer.encode(text, begins=begins))


@lru_cache(maxsize=256)
def _choices(
    tokenizer: Tokenizer, text: str, options: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    start, ends = tokenizer.choices(text, options)
    return tuple(start), tuple(ends)


@lru_cache(maxsize=64)
def _next_turn(tokenizer: Tokenizer, question: str) -> tuple[int, ...]:
    """What follows an answer when the user asks on, up to where the assistant speaks again."""
    *_, turn = tokenizer.frame(("user", None), ("assistant", None), ("user", question))
    return tuple(tokenizer.encode(turn))
