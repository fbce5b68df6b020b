"""The protocol of a step scorer: what it reads, and what its reading says of a step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from langgraph_arbitrage.policies.base import Kind, PastStep, ScorerRequest

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["Role", "StepScore", "StepScorer", "softmax"]

Role = Literal["router", "prm"]
"""What a scorer's value means: that the target would write a better step, or that a step is
right."""


@dataclass(frozen=True)
class StepScore:
    """What a scorer says of a step."""

    value: float
    """In [0, 1]: a PRM's probability that the step is right, or a router's ŷ that the target
    would write a better one."""
    policy_state: tuple[float, ...] = ()
    """Numbers to hand back with the next step (`PastStep.memory`)."""


@dataclass(frozen=True)
class StepScorer(ABC):
    """Scores a step in its context: a PRM's h(x, z), or a router's ŷ(x, z_d).

    The text goes in pieces of which each step only adds to those before, so that the engine
    reads nothing twice.
    """

    model: str
    """Checkpoint: a local folder or a hub id."""
    role: Role = field(default="prm", kw_only=True)
    """`router`: the probability that the target would write a better step; `prm`: that the step
    is right."""
    draft: str | None = field(default=None, kw_only=True)
    target: str | None = field(default=None, kw_only=True)
    """The pair that a router was trained for."""

    @property
    def base_model(self) -> str:
        """Checkpoint of the model that reads the steps."""
        return self.model

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What sits on that model."""

    @abstractmethod
    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """What the model is to read to judge `step` after `history`."""

    @abstractmethod
    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """What the reading of that ask says of the step."""

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """The scorer of a checkpoint.

        Args:
            model: The name that it goes by.
            folder: Where its small files are.
            role: What it is taken for where its files do not say.

        Raises:
            CheckpointError: It is not what it should be.
        """
        return cls(model)


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities of logits.

    Example:
        >>> softmax([1.0, 1.0])
        [0.5, 0.5]
    """
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = sum(weights)
    return [w / total for w in weights]
