"""The protocol of a step scorer: what it reads, and what its reading says of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langgraph_arbitrage.policies.base import Ask, PastStep

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Reading

__all__ = ["Judgement", "StepScorer"]


@dataclass(frozen=True)
class Judgement:
    """What a scorer says of a step."""

    value: float
    """In [0, 1]: a PRM's probability that the step is right, or a router's ŷ that the target
    would write a better one."""
    memory: tuple[float, ...] = ()
    """Numbers to hand back with the next step (`PastStep.memory`)."""


@dataclass(frozen=True)
class StepScorer(ABC):
    """Scores a step in its context: a PRM's h(x, z), or a router's ŷ(x, z_d).

    The text goes in pieces of which each step only adds to those before, so that the engine
    reads nothing twice.
    """

    model: str
    """Checkpoint: a local folder or a hub id."""

    @abstractmethod
    def ask(self, question: str, history: Sequence[PastStep], step: str) -> Ask:
        """What the model is to read to judge `step` after `history`."""

    @abstractmethod
    def judge(self, history: Sequence[PastStep], reading: Reading) -> Judgement:
        """What the reading of that ask says of the step."""
