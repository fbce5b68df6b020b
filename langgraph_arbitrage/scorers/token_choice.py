"""PRMs that are causal LMs and score a step by the probability of one token against another.

The files of such a checkpoint do not identify its kind, so the kind is set by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from langgraph_arbitrage.errors import ChatTemplateError
from langgraph_arbitrage.policies.base import PastStep, ScorerRequest
from langgraph_arbitrage.scorers.base import StepScore, StepScorer, softmax

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import ScoreOutput

__all__ = ["MathShepherdScorer", "RLHFlowScorer"]

STEP_TAG = " ки"


@dataclass(frozen=True)
class RLHFlowScorer(StepScorer):
    """Scores steps in a conversation: each user turn holds a step, each reply is `+` or `-`.

    The first user turn contains the problem, a space and the first step. Every previous step has
    the reply `+`. The value is the probability of `+` against `-` as the next reply.

    Source: github.com/RLHFlow/RLHF-Reward-Modeling, math-rm (RLHFlow/Llama3.1-8B-PRM-*).
    """

    @property
    def kind(self) -> Literal["causal-lm"]:
        """The LM's own language head."""
        return "causal-lm"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build the published conversation."""
        before, between, after = _frame(self.model)
        pieces = [f"{before}{question}"]
        for i, text in enumerate((*(past.text for past in history), step)):
            pieces += [between, text.strip(), after] if i else [f" {text.strip()}", after]
        return ScorerRequest(self.model, tuple(pieces), self.kind, choices=("+", "-"))

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Compute P(+) / (P(+) + P(-))."""
        return StepScore(softmax(output.logits)[0])


@lru_cache(maxsize=16)
def _frame(model: str) -> tuple[str, str, str]:
    """Return the texts before the problem, from the `+` reply to the next step, and after it."""
    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer

    tokenizer = load_tokenizer(ModelSpec(model))
    before, between, after = tokenizer.frame(("user", None), ("assistant", "+"), ("user", None))
    if not between.startswith(after):
        raise ChatTemplateError(
            f"the chat template of {model} renders a generation prompt that differs from the start "
            "of a past assistant turn, so steps cannot be scored incrementally. Use another PRM"
        )
    return before, between.removeprefix(after), after


@dataclass(frozen=True)
class MathShepherdScorer(StepScorer):
    """Scores the problem, a space and one step per line, each followed by the tag ` ки`.

    The value is the probability of ` +` against ` -` after the tag. Steps are passed unchanged,
    without the prefix `Step 1:` of the training data.

    Source: the model card of peiyi9979/math-shepherd-mistral-7b-prm (arXiv 2312.08935).
    """

    @property
    def kind(self) -> Literal["causal-lm"]:
        """The LM's own language head."""
        return "causal-lm"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """Build the published format, with two pieces per step."""
        pieces, space = [question], " "
        for text in (*(past.text for past in history), step):
            pieces += [space + text.strip(), STEP_TAG]
            space = "\n"
        return ScorerRequest(self.model, tuple(pieces), self.kind, choices=(" +", " -"))

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """Compute P(+) / (P(+) + P(-))."""
        return StepScore(softmax(output.logits)[0])
