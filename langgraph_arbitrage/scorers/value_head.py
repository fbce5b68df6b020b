"""A value head beside a causal LM, as the Skywork-o1-Open-PRM models have it.

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
    """BOS, problem, newline, steps; the sigmoid of the value at the newline after a step.

    In the published input every line is a step, cut into tokens by itself and followed by one
    newline token. A step of several lines is read so, without blank lines, and judged at its last.
    """

    start: str = ""
    """The text of the BOS token, which these models are given though their tokenizer puts none."""

    @property
    def kind(self) -> Literal["value-head"]:
        """`v_head.summary` in the checkpoint."""
        return "value-head"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """The published text, two pieces a line."""
        pieces = [f"{self.start}{question}\n"]
        for text in (*(past.text for past in history), step):
            for line in [line for line in text.split("\n") if line.strip()] or [" "]:
                pieces += [line, "\n"]
        return ScorerRequest(self.model, tuple(pieces), self.kind)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """σ(value)."""
        return StepScore(softmax([0.0, output.logits[0]])[1])

    @classmethod
    def load(cls, model: str, folder: Path, role: Role = "prm") -> Self:
        """Look up the BOS token.

        Raises:
            CheckpointError: The tokenizer's config cannot be read.
        """
        path = folder / "tokenizer_config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise CheckpointError(f"{model} has an unreadable {path.name}: {error}") from error
        bos = config.get("bos_token") or ""
        return cls(model, start=bos["content"] if isinstance(bos, dict) else bos)
