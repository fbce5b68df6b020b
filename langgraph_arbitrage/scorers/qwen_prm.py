"""Qwen2.5-Math-PRM: two labels at a token of its own after each step.

Source: the model card of Qwen/Qwen2.5-Math-PRM-7B. Its remote code is not needed: the model is
transformers' own Qwen2 with the checkpoint's `score` layers on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from langgraph_arbitrage.errors import CheckpointError
from langgraph_arbitrage.policies.base import PastStep, ScorerRequest
from langgraph_arbitrage.scorers.base import StepScore, StepScorer, softmax

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["QwenScorer"]

MARK = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class QwenScorer(StepScorer):
    """The chat template with the published system prompt; steps, each followed by `<extra_0>`."""

    @property
    def kind(self) -> Literal["process-reward"]:
        """`score.0` and `score.2` in the checkpoint."""
        return "process-reward"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """The published text, two pieces a step."""
        before, after = _frame(self.model)
        pieces = [f"{before}{question}{after}"]
        for text in (*(past.text for past in history), step):
            pieces += [text.strip(), MARK]
        return ScorerRequest(self.model, tuple(pieces), self.kind)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """The probability of label 1."""
        return StepScore(softmax(output.logits)[1])


@lru_cache(maxsize=16)
def _frame(model: str) -> tuple[str, str]:
    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer

    tokenizer = load_tokenizer(ModelSpec(model))
    if len(tokenizer.encode(MARK)) != 1:
        raise CheckpointError(
            f"{model} is no Qwen2.5-Math-PRM: its tokenizer has no token {MARK}, at which such a "
            "model judges the step before"
        )
    before, after = tokenizer.frame(("system", SYSTEM), ("user", None))
    return before, after
