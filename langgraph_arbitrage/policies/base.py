"""The protocol of a policy: what it reads, what it asks, when it escalates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.calibration import parse

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = [
    "Decision",
    "PastStep",
    "Policy",
    "ScorerRequest",
    "StepText",
    "StepView",
    "TargetQuestion",
    "Writer",
]

Writer = Literal["draft", "target"]
Kind = Literal[
    "causal-lm",
    "sequence-classification",
    "token-classification",
    "value-head",
    "process-reward",
]
"""What sits on a scorer's model, as the engine has it."""


@dataclass(frozen=True)
class PastStep:
    """A step that is part of the answer."""

    writer: Writer
    text: str
    tokens: int
    policy_state: tuple[float, ...] = ()
    """What the policy noted when it judged the step."""


@dataclass(frozen=True)
class StepText:
    """A step that a model wrote."""

    text: str
    tokens: int
    logprobs: tuple[float, ...] = ()
    """Log-probability of each token under the model that wrote it, in nats."""


@dataclass(frozen=True)
class StepView:
    """All that a policy may look at. Plain data: the same view gives the same decision."""

    question: str
    """Text of the last human message."""
    history: tuple[PastStep, ...]
    """The steps so far."""
    seed: int
    """The run's seed, for policies that draw numbers."""
    draft: StepText | None = None
    """The draft's step; None before it is written."""
    target: StepText | None = None
    """The target's step from the same prefix, for policies that need it before they decide."""

    @property
    def index(self) -> int:
        """Number of the step, from 0."""
        return len(self.history)


@dataclass(frozen=True)
class ScorerRequest:
    """A question to a scorer, answered with an engine's `ScoreOutput`."""

    model: str
    """Checkpoint of the scorer."""
    pieces: tuple[str, ...]
    """The text, in pieces that are tokenized one by one: a later ask that begins with the same
    pieces goes on from the cache."""
    kind: Kind = "token-classification"
    """What sits on the model: a language head, a classifier's, or a PRM's own."""
    scored: int = 1
    """With a causal LM: how many pieces at the end have their tokens scored."""
    choices: tuple[str, ...] = ()
    """With a causal LM: texts of one token each that are weighed against each other as what comes
    next; then `ScoreOutput.logits` has one number for each, and no tokens are scored."""


@dataclass(frozen=True)
class TargetQuestion:
    """A question to the target itself about the draft's step.

    It is asked behind the step, as the next turn of the conversation, so that the target reads
    the step and the question only.
    """

    question: str
    """What the user says after the step."""
    reply: str
    """How the target's reply begins."""
    choices: tuple[str, ...]
    """How it may go on, a token each; `ScoreOutput.logits` has one number for each."""


@dataclass(frozen=True)
class Decision:
    """What a policy decided on a draft's step."""

    score: float | None
    escalate: bool
    policy_state: tuple[float, ...] = ()
    """Numbers to find again in `PastStep.memory` at the steps that follow."""


@dataclass(frozen=True)
class Policy(ABC):
    """Decides, for each draft step, whether the target writes it again.

    A policy of one's own is a frozen dataclass with a `score` and an `escalates`:

    Example:
        >>> from dataclasses import dataclass
        >>> from langgraph_arbitrage import Policy
        >>> @dataclass(frozen=True)
        ... class LongSteps(Policy):
        ...     '''Escalates iff the draft's step has more than `limit` characters.'''
        ...     limit: int = 200
        ...     def score(self, view, answers):
        ...         return len(view.draft.text)
        ...     def escalates(self, score):
        ...         return score > self.limit
    """

    needs_draft: ClassVar[bool] = True
    """Whether the draft model is ever used."""
    needs_target: ClassVar[bool] = True
    """Whether the target model is ever used."""
    needs_target_step: ClassVar[bool] = False
    """Whether `score` reads the target's step, so that the target writes every step."""
    threshold_field: ClassVar[str | None] = None
    """The field that `threshold=` of the chat model sets; None where there is none."""

    def skips_draft(self, view: StepView) -> bool:
        """Whether the target writes this step at once, without a draft."""
        return not self.needs_draft

    def scorers(self) -> Sequence[tuple[str, Kind]]:
        """Checkpoint and kind of each scorer that is asked; all are checked before work begins."""
        return ()

    def validate_pair(self, draft: str, target: str) -> None:  # noqa: B027 - most have nothing against it
        """Look at the pair of models before work begins; raise where the policy is not for it.

        Args:
            draft: The draft, as in the settings.
            target: The target.
        """

    def scorer_requests(self, view: StepView) -> Sequence[ScorerRequest | TargetQuestion]:
        """What scorers, or the target, are to read before `score` is called."""
        return ()

    def tokens_left(self, view: StepView) -> int | None:
        """Most tokens that the target may write of this step; None leaves it to the limits."""
        return None

    def decide(self, view: StepView, outputs: Sequence[ScoreOutput]) -> Decision:
        """Judge a step: the score, and the rule applied to it.

        Args:
            view: The step in its context; `view.draft` is there.
            outputs: One for each of `scorer_requests`, in order.
        """
        score = self.score(view, outputs)
        return Decision(score, self.escalates(score))

    @abstractmethod
    def score(self, view: StepView, outputs: Sequence[ScoreOutput]) -> float | None:
        """The number that decides; None where the policy does not go by a number."""

    @abstractmethod
    def escalates(self, score: float | None) -> bool:
        """The rule: whether a step with this score goes to the target."""

    def with_threshold(self, threshold: float | str) -> Self:
        """This policy with another threshold.

        Raises:
            SettingsError: The policy has no threshold, or this one is outside its range.
        """
        if self.threshold_field is None:
            raise SettingsError(
                f"threshold={threshold} was given, but {type(self).__name__} has no threshold"
            )
        if isinstance(threshold, str):
            parse(threshold)
            raise SettingsError(
                f"threshold {threshold!r} is found in a router's calibration, and "
                f"{type(self).__name__} has none: give a number"
            )
        return replace(self, **{self.threshold_field: threshold})


def check_range(policy: Policy, field: str, low: float = 0, high: float = 1) -> None:
    """Raise unless a field is a number from `low` to `high`."""
    value = getattr(policy, field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SettingsError(
            f"{field} of {type(policy).__name__} must be a number from {low} to {high}, "
            f"not {value!r}"
        )
