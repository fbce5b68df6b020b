"""Maps draft, target and scorer roles to engines and converts token ids between vocabularies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from langgraph_arbitrage.config.run_options import RunOptions
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import ContextLengthError
from langgraph_arbitrage.loop.engine_calls import EngineCall
from langgraph_arbitrage.models.generation_config import GenerationDefaults
from langgraph_arbitrage.policies import Policy, ScorerRequest, TargetQuestion, Writer
from langgraph_arbitrage.prompts.chat_template import Template, template_of
from langgraph_arbitrage.prompts.messages import template_messages
from langgraph_arbitrage.state import ModelIdentity, StepRecord, StepWriter
from langgraph_arbitrage.tools.formats import Tool
from langgraph_arbitrage.tools.parser import Parser
from langgraph_arbitrage.tools.response_format import (
    OutputConstraints,
    ResponseFormat,
    answer_parser,
)
from langgraph_arbitrage.utils.fork_lock import ForkLock

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Engine, ModelSpec, Tokenizer
    from langgraph_arbitrage.loop.answer import AnswerAssembler

__all__ = ["FREE_TEXT", "Models", "piece_ids", "vocabulary_owner"]

FREE_TEXT = ResponseFormat()
IGNORED = GenerationDefaults()
DECODE_WINDOW = 64  # preceding tokens decoded with a step, since characters may span tokens
MAX_ASSEMBLERS = 256
_SHARED_FIELDS = (
    *("device", "dtype", "trust_remote_code", "chat_template", "max_slots", "max_queue"),
    *("batch_invariant", "engine", "cuda_graphs"),
)
_model_values = attrgetter(
    *("draft", "target", "draft_revision", "target_revision"),
    *("model_kwargs", "draft_kwargs", "target_kwargs", *_SHARED_FIELDS),
)
_option_values = attrgetter("router", "draft", "target", *RunOptions.model_fields)


class Models:
    """Draft, target and scorers of a graph or chat model. Each is acquired at its first use."""

    def __init__(self, settings: ArbitrageSettings) -> None:
        self.settings = settings
        self._engines: dict[ModelSpec, Engine] = {}
        self._tokenizers: dict[ModelSpec, Tokenizer] = {}
        self._lock = ForkLock()
        self._identities: dict[Writer, ModelIdentity] = {}
        self._run_settings: tuple[tuple[Any, ...], RunSettings] | None = None
        self._specs: dict[Writer, tuple[tuple[Any, ...], ModelSpec]] = {}
        self._assemblers: OrderedDict[str, AnswerAssembler] = OrderedDict()

    # --- engines -------------------------------------------------------------------------

    def engine(self, role: Writer) -> Engine:
        """Return the engine of the draft or the target. Weights load at its first request."""
        return self._acquire(self.spec(role))

    def scorer_engine(self, model: str, kind: str) -> Engine:
        """Return the engine of a scorer."""
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

    def scorer_call(self, request: ScorerRequest, question: str) -> EngineCall:
        """Build the engine call for a request to a scorer.

        Special tokens in the question are encoded as ordinary text. A text that does not fit the
        scorer's context is shortened as in `_fitting`.
        """
        from langgraph_arbitrage.engine import ScoreRequest

        engine = self.scorer_engine(request.model, request.kind)
        texts = list(request.pieces)
        if engine.tokenizer.control_tokens.find(question):
            escaped = engine.tokenizer.control_tokens.escape(question)
            texts = [text.replace(question, escaped) for text in texts]
        pieces = piece_ids(engine.tokenizer, texts)
        if engine.context is not None:
            pieces = _fitting(pieces, request.scored, engine.context)
        choices: tuple[int, ...] = ()
        if request.choices:
            pieces[-1], choices = _choices(engine.tokenizer, request.pieces[-1], request.choices)
        ids = [token for piece in pieces for token in piece]
        scored = sum(len(piece) for piece in pieces[-request.scored :])
        score = ScoreRequest(ids, start=max(1, len(ids) - scored), choices=choices)
        return EngineCall(engine, score)

    def target_call(
        self,
        question: TargetQuestion,
        prompts: Mapping[str, list[int]],
        steps: Sequence[StepRecord],
        draft: Sequence[int],
    ) -> EngineCall:
        """Build the engine call for a policy's question to the target about the draft's step.

        A conversation that does not fit the target's context is shortened as in `_fitting`, and at
        worst the start of the step is left out.

        Args:
            question: The question.
            prompts: Token ids of the conversation, by role.
            steps: The steps so far.
            draft: The draft's step, in the target's vocabulary.
        """
        from langgraph_arbitrage.engine import ScoreRequest

        engine, tokenizer = self.engine("target"), self.tokenizer("target")
        turn = _next_turn(tokenizer, question.question)
        text, choices = _choices(tokenizer, question.reply, question.choices)
        if turn[:1] == tuple(draft[-1:]):  # the step already contains the end of the turn
            turn = turn[1:]
        past = [self.step_ids("target", step) for step in steps]
        pieces: list[Sequence[int]] = [(), prompts["target"], *past, [*draft, *turn, *text]]
        if engine.context is not None:
            pieces = _fitting(pieces, 1, engine.context)
        ids = [token for piece in pieces for token in piece]
        if engine.context is not None:
            ids = ids[-engine.context :]
        return EngineCall(engine, ScoreRequest(ids, choices=choices))

    @property
    def run_settings(self) -> RunSettings:
        """The run options of the settings, validated again only if a setting has changed."""
        values, found = _option_values(self.settings), self._run_settings
        if found is None or found[0] != values:
            self._run_settings = found = values, RunSettings.of(self.settings)
        return found[1]

    def spec(self, role: Writer) -> ModelSpec:
        """Return the spec of the draft or the target: the checkpoint and its loading options."""
        from langgraph_arbitrage.engine import ModelSpec

        s = self.settings
        # Cached, because each step needs the spec several times.
        values = _model_values(s)
        found = self._specs.get(role)
        if found is None or found[0] != values:
            draft = role == "draft"
            spec = ModelSpec(
                path=s.draft if draft else s.target,
                revision=s.draft_revision if draft else s.target_revision,
                model_kwargs=s.model_kwargs | (s.draft_kwargs if draft else s.target_kwargs),
                **{name: getattr(s, name) for name in _SHARED_FIELDS},
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
        """True once the tokenizers are loaded, so that no call blocks on files."""
        return "share_vocabulary" in self.__dict__

    def prepare(self, policy: Policy) -> None:
        """Check the checkpoints that a policy uses and load the tokenizers. Blocks on files.

        Raises:
            CheckpointError: A model cannot be used.
            SettingsError: The policy does not fit the pair.
        """
        for role in self.roles(policy):
            self.engine(role)
        for engine in self.scorer_engines(policy):
            _ = engine.tokenizer
        for role in ("draft", "target"):
            self.identity(role)
        _ = self.share_vocabulary

    def scorer_engines(self, policy: Policy) -> list[Engine]:
        """Return the engines of a policy's scorers, after `Policy.validate_pair`.

        Raises:
            SettingsError: The policy does not fit the pair.
            CheckpointError: A scorer's checkpoint cannot be used.
        """
        policy.validate_pair(self.settings.draft, self.settings.target)
        return [self.scorer_engine(model, kind) for model, kind in policy.scorers()]

    def identity(self, role: Writer) -> ModelIdentity:
        """Return the identity of a role's model, as stored in the state."""
        found = self._identities.get(role)
        if found is None:
            from langgraph_arbitrage.models.fingerprint import fingerprint

            spec = self.spec(role)
            found = ModelIdentity(path=spec.path, digest=fingerprint(spec))
            self._identities[role] = found
        return found

    def close(self) -> None:
        """Release the engines. A model that nothing else uses is unloaded."""
        from langgraph_arbitrage.engine import release

        with self._lock:
            for engine in self._engines.values():
                release(engine)
            self._engines.clear()
            self._tokenizers.clear()
            self._assemblers.clear()
            self.__dict__.pop("share_vocabulary", None)

    @staticmethod
    def roles(policy: Policy) -> list[Writer]:
        """Return the writers that a policy uses."""
        used: list[tuple[Writer, bool]] = [
            ("draft", policy.needs_draft),
            ("target", policy.needs_target),
        ]
        return [role for role, needed in used if needed]

    def backends(self, roles: Sequence[Writer]) -> dict[str, str]:
        """Return the backend of each loaded model of these roles: `slot`, `plain` or `remote`."""
        found = {role: self.engine(role).backend for role in roles}
        return {role: backend for role, backend in found.items() if backend}

    def generation_defaults(self, role: Writer) -> GenerationDefaults:
        """Return the defaults of a model's generation_config.json, unless they are ignored."""
        if self.settings.generation_config == "ignore":
            return IGNORED
        return self.engine(role).generation_defaults

    # --- token ids -----------------------------------------------------------------------

    def tokenizer(self, role: Writer) -> Tokenizer:
        """Return a writer's tokenizer. Does not load the model."""
        from langgraph_arbitrage.engine import load_tokenizer

        spec = self.spec(role)
        found = self._tokenizers.get(spec)
        if found is None:
            found = self._tokenizers[spec] = load_tokenizer(spec)
        return found

    @cached_property
    def share_vocabulary(self) -> bool:
        """True if draft and target have one vocabulary."""
        return self.tokenizer("draft").shares_vocabulary(self.tokenizer("target"))

    def template(self, role: Writer, settings: RunOptions) -> Template:
        """Return the features of a writer's chat template under the variables of a run."""
        found = template_of(
            self.tokenizer(role).with_template_kwargs(settings.template_kwargs(role))
        )
        if settings.continue_final_message and found.opening_mark:
            return replace(found, opening_mark=None)  # the prompt ends within the text
        return found

    def render_prompts(
        self,
        messages: Sequence[BaseMessage],
        settings: RunSettings,
        also: Sequence[Writer] = (),
        response_format: ResponseFormat = FREE_TEXT,
    ) -> dict[str, list[int]]:
        """Render a conversation to token ids for each model, by its own template.

        Args:
            messages: The conversation.
            settings: The settings of the run. The prompts are for the writers of its policy and
                always for the target.
            also: Further roles.
            response_format: Tools and format of the answer.

        Raises:
            ContextLengthError: The conversation does not fit a model that the policy uses.
            ChatTemplateError: A model has no template, or its template refuses the conversation.
            MessageError: A text contains a special token that is refused.
            SettingsError: The policy does not fit the pair.
        """
        policy = settings.policy
        self.scorer_engines(policy)
        plain = template_messages(messages)
        # Usage is counted in the target's tokens, whichever model writes.
        roles: set[Writer] = {*self.roles(policy), *also, "target"}
        found: dict[str, list[int]] = {
            role: self.template(role, settings).render(
                plain,
                response_format.tools,
                response_format.note,
                settings.special_tokens_in_text,
                settings.continue_final_message,
            )
            for role in sorted(roles)
        }
        for role in self.roles(policy):
            if role == "draft" and policy.needs_target:
                continue  # the target continues alone if the draft's context is full
            engine, tokens = self.engine(role), len(found[role])
            if engine.context is not None and tokens >= engine.context:
                raise ContextLengthError(
                    f"the prompt has {tokens} tokens for the {role} {engine.spec.name}, which "
                    f"reads {engine.context} including the answer. Shorten the conversation or "
                    "use a model with a longer context."
                )
        return found

    def output_constraints(
        self, response_format: ResponseFormat, roles: Sequence[Writer], settings: RunSettings
    ) -> OutputConstraints:
        """Return the constraints of a response format for each of these writers.

        Raises:
            GrammarError: A schema cannot be compiled, or calls cannot be forced.
            MissingExtraError: The format needs a grammar, and llguidance is not installed.
        """
        constraints = response_format.constraints(
            {role: self.template(role, settings) for role in roles},
            lambda role: self.engine(role).grammar_marks(),  # type: ignore[arg-type]
        )
        for role, grammar in constraints["grammars"].items():
            self.engine(role).check_grammar(grammar)  # type: ignore[arg-type]
        return constraints

    def parser(
        self, writers: Sequence[Writer], tools: Sequence[Tool], settings: RunSettings
    ) -> Parser:
        """Create the parser of an answer by these writers. The first writer begins the answer."""
        templates = [self.template(role, settings) for role in dict.fromkeys(writers)]
        return answer_parser(templates, tools)

    def input_ids(
        self, role: Writer, prompts: Mapping[str, list[int]], steps: Sequence[StepRecord]
    ) -> list[int]:
        """Return the token ids of prompt and steps in a model's vocabulary.

        With one vocabulary, ids are passed unchanged. Otherwise the text of the other model's steps
        is encoded again.
        """
        ids = list(prompts[role])
        for step in steps:
            ids += self.step_ids(role, step)
        return ids

    def step_ids(self, role: Writer, step: StepRecord) -> list[int]:
        """Return a step's token ids in a model's vocabulary."""
        return self.convert_ids(role, step["writer"], step["ids"], step["text"])

    def convert_ids(self, role: Writer, writer: StepWriter, ids: list[int], text: str) -> list[int]:
        """Convert a writer's token ids to a model's vocabulary."""
        if self.share_vocabulary or vocabulary_owner(writer) == role:
            return ids
        return list(_encode(self.tokenizer(role), text))

    def decode_step(
        self,
        role: Writer,
        prompts: Mapping[str, list[int]],
        steps: Sequence[StepRecord],
        ids: Sequence[int],
        *,
        ends_answer: bool = False,
    ) -> str:
        """Return the text that `ids` add to the answer so far.

        An incomplete character at the end is left to the next step.
        """
        before: list[int] = []
        for step in reversed(steps):
            if len(before) >= DECODE_WINDOW:
                break
            before = self.step_ids(role, step) + before
        before = (prompts[role][-1:] + before)[-DECODE_WINDOW:]
        tokenizer = self.tokenizer(role)
        known = tokenizer.decode(before).rstrip("\ufffd")
        text = tokenizer.decode([*before, *ids])[len(known) :]
        return text if ends_answer else text.rstrip("\ufffd")

    # --- answers in progress -------------------------------------------------------------

    def take_assembler(self, answer: str) -> AnswerAssembler | None:
        """Remove and return the assembler of an answer in progress, if this process has it."""
        with self._lock:
            return self._assemblers.pop(answer, None)

    def keep_assembler(self, answer: str, assembler: AnswerAssembler) -> None:
        """Keep the assembler of an answer for its next step; the oldest ones are dropped."""
        with self._lock:
            self._assemblers[answer] = assembler
            if len(self._assemblers) > MAX_ASSEMBLERS:
                self._assemblers.popitem(last=False)


def _fitting(pieces: list[Sequence[int]], scored: int, context: int) -> list[Sequence[int]]:
    """Shorten a text to a context: leave out the first steps, then the start of the question.

    So a scorer reads the question and the last part of the answer.

    Args:
        pieces: Token ids: start ids, question, then steps.
        scored: Number of pieces at the end that are always kept.
        context: Context length in tokens.
    """
    excess, drop = sum(map(len, pieces)) - context, 0
    while excess > 0 and 2 + drop < len(pieces) - scored:
        excess -= len(pieces[2 + drop])
        drop += 1
    start, question = pieces[:2]
    return [start, question[max(0, excess) :], *pieces[2 + drop :]]


def vocabulary_owner(writer: StepWriter) -> Writer:
    """Return the model whose vocabulary a writer's ids belong to."""
    return "target" if writer == "human" else writer


def piece_ids(tokenizer: Tokenizer, pieces: Sequence[str]) -> list[Sequence[int]]:
    """Encode each piece of a text separately; the tokenizer's start ids are the first piece."""
    first, *others = pieces
    begun = _encode(tokenizer, first, begins=True)
    return [tokenizer.start_ids, begun, *(_encode(tokenizer, piece) for piece in others)]


@lru_cache(maxsize=4096)
def _encode(tokenizer: Tokenizer, text: str, *, begins: bool = False) -> tuple[int, ...]:
    """Encode a text. Cached, because each step encodes all previous steps again."""
    return tuple(tokenizer.encode(text, begins=begins))


@lru_cache(maxsize=256)
def _choices(
    tokenizer: Tokenizer, text: str, options: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    start, ends = tokenizer.choices(text, options)
    return tuple(start), tuple(ends)


@lru_cache(maxsize=64)
def _next_turn(tokenizer: Tokenizer, question: str) -> tuple[int, ...]:
    """Return the ids of a further user turn, up to the start of the assistant's reply."""
    *_, turn = tokenizer.frame(("user", None), ("assistant", None), ("user", question))
    return tuple(tokenizer.encode(turn))
