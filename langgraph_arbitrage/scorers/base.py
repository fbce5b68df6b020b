"""The step scorer protocol: build a scorer request, convert its output to a step score."""

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
"""Meaning of a scorer's value. `router`: probability that the target would write a better step.
`prm`: probability that the step is correct."""


@dataclass(frozen=True)
class StepScore:
    """The score of one step."""

    value: float
    """Probability in [0, 1], whose meaning depends on the scorer's `Role`."""
    policy_state: tuple[float, ...] = ()
    """Numbers stored with the step. Later steps read them from `PastStep.policy_state`."""


@dataclass(frozen=True)
class StepScorer(ABC):
    """Scores a step in its context: a PRM's h(x, z) or a router's ŷ(x, z_d).

    The text of a request is split into pieces, and each step only appends pieces. The engine
    therefore reuses the KV cache of the previous steps.
    """

    model: str
    """Scorer checkpoint: a local folder or a Hub id."""
    role: Role = field(default="prm", kw_only=True)
    """Meaning of the score. Default: `prm`."""
    draft: str | None = field(default=None, kw_only=True)
    """Draft checkpoint that a router was trained for; None if unknown."""
    target: str | None = field(default=None, kw_only=True)
    """Target checkpoint that a router was trained for; None if unknown."""

    @property
    def base_model(self) -> str:
        """Checkpoint of the model that runs the forward."""
        return self.model

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """Type of head on `base_model`."""

    @abstractmethod
    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build the request that scores `step` after `history`."""

    @abstractmethod
    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Convert the output of `request` to a step score."""

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Load the scorer of a checkpoint, without the model weights.

        Args:
            model: Checkpoint: a local folder or a Hub id.
            folder: Folder with the checkpoint's configuration files.
            role: Role to assume if the files do not specify one.

        Raises:
            CheckpointError: The checkpoint is not valid for this format.
        """
        return cls(model)


def softmax(logits: Sequence[float]) -> list[float]:
    """Compute the softmax of a list of logits.

    Example:
        >>> softmax([1.0, 1.0])
        [0.5, 0.5]
    """
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = sum(weights)
    return [w / total for w in weights]
