"""A token classifier over the reasoning, read at the last token of a step: the paper's router."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.policies.base import Ask, PastStep
from langgraph_arbitrage.scorers.base import Judgement, StepScorer

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Reading

__all__ = ["CONFIG", "TokenScorer"]

CONFIG = "router.json"

TAGS = {"draft": "Model 0: ", "target": "Model 1: "}
"""What the paper puts before each step: who wrote it."""


@dataclass(frozen=True)
class TokenScorer(StepScorer):
    """Problem, newline, steps; the last token's label probabilities.

    The value is the probability of the upper half of the labels: of label 1 where there are two.
    """

    role: str = "prm"
    """`router` or `prm`."""
    tagged: bool = False
    """Whether each step is headed by who wrote it; the step that is judged counts as the
    draft's."""
    draft: str | None = None
    target: str | None = None
    """The pair that a router was trained for."""

    def ask(self, question: str, history: Sequence[PastStep], step: str) -> Ask:
        """The paper's text, one piece a step."""
        pieces = [f"{question}\n"]
        for past in history:
            pieces.append(TAGS[past.writer] + past.text if self.tagged else past.text)
        pieces.append(TAGS["draft"] + step if self.tagged else step)
        return Ask(self.model, tuple(pieces), kind="token-classification")

    def judge(self, history: Sequence[PastStep], reading: Reading) -> Judgement:
        """Softmax over the labels, summed over the upper half."""
        highest = max(reading.logits)
        weights = [math.exp(logit - highest) for logit in reading.logits]
        return Judgement(sum(weights[len(weights) // 2 :]) / sum(weights))

    def save(self, folder: Path) -> None:
        """Write the fields beside the model."""
        plain = {k: v for k, v in asdict(self).items() if k != "model"}
        (folder / CONFIG).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model: str, folder: Path) -> Self:
        """Read what `save` wrote; a public token-classification PRM has no such file.

        Raises:
            CheckpointError: The file cannot be read.
        """
        path = folder / CONFIG
        try:
            plain = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            return cls(model=model, **plain)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
