"""A causal LM with a value head, the format of the Skywork-o1-Open-PRM models.

Source: github.com/SkyworkAI/skywork-o1-prm-inference (`prepare_input`, `PRM_MODEL`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.policies.base import PastStep, ScorerRequest
from langgraph_arbitrage.scorers.base import Role, StepScore, StepScorer, softmax

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["ValueHeadScorer"]


@dataclass(frozen=True)
class ValueHeadScorer(StepScorer):
    """Applies the sigmoid to the value at the newline after a step.

    The input is the BOS token, the problem, a newline and the steps. In the published format every
    line is a step, tokenized separately and followed by one newline token. A step of several lines
    is split into its non-blank lines and scored at the last one.
    """

    start: str = ""
    """Text of the BOS token. These models expect it, but their tokenizers do not add it."""

    @property
    def kind(self) -> Literal["value-head"]:
        """The head `v_head.summary` of the checkpoint."""
        return "value-head"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build the published format, with two pieces per line."""
        pieces = [f"{self.start}{question}\n"]
        for text in (*(past.text for past in history), step):
            for line in [line for line in text.split("\n") if line.strip()] or [" "]:
                pieces += [line, "\n"]
        return ScorerRequest(self.model, tuple(pieces), self.kind)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Compute σ(value)."""
        return StepScore(softmax([0.0, output.logits[0]])[1])

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Load the scorer with the BOS token from the tokenizer's configuration.

        Raises:
            CheckpointError: `tokenizer_config.json` cannot be read.
        """
        path = folder / "tokenizer_config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise CheckpointError(f"{path.name} of {model} is not valid JSON: {error}") from error
        bos = config.get("bos_token") or ""
        return cls(model, start=bos["content"] if isinstance(bos, dict) else bos)
