"""Qwen2.5-Math-PRM: a two-label head, read at a marker token after each step.

Source: the model card of Qwen/Qwen2.5-Math-PRM-7B. The checkpoint's remote code is not needed: the
model is the Qwen2 model of transformers with the checkpoint's `score` layers as the head.
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

MARKER = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class QwenScorer(StepScorer):
    """Renders the published system prompt and question, then each step followed by `<extra_0>`."""

    @property
    def kind(self) -> Literal["process-reward"]:
        """The head `score.0` and `score.2` of the checkpoint."""
        return "process-reward"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build the published format, with two pieces per step."""
        before, after = _frame(self.model)
        pieces = [f"{before}{question}{after}"]
        for text in (*(past.text for past in history), step):
            pieces += [text.strip(), MARKER]
        return ScorerRequest(self.model, tuple(pieces), self.kind)

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Return the probability of label 1 (correct)."""
        return StepScore(softmax(output.logits)[1])


@lru_cache(maxsize=16)
def _frame(model: str) -> tuple[str, str]:
    """Return the text before and after the question."""
    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer

    tokenizer = load_tokenizer(ModelSpec(model))
    if len(tokenizer.encode(MARKER)) != 1:
        raise CheckpointError(
            f"{model} is not a Qwen2.5-Math-PRM checkpoint: its tokenizer has no {MARKER} token, "
            "which marks the end of a step. Use a checkpoint of this family or another scorer kind"
        )
    before, after = tokenizer.frame(("system", SYSTEM), ("user", None))
    return before, after
