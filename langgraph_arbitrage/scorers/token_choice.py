"""Causal LMs whose judgement is the probability of one token against another.

Nothing in such a checkpoint says so: its kind is set by name.
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
    """A conversation: the user tells a step, the assistant answers `+` or `-`.

    The first turn of the user is the problem, a blank and the first step; every step before was
    answered with `+`. The value is the probability of `+` against `-` as the next answer.

    Source: github.com/RLHFlow/RLHF-Reward-Modeling, math-rm (RLHFlow/Llama3.1-8B-PRM-*).
    """

    @property
    def kind(self) -> Literal["causal-lm"]:
        """Its own language head."""
        return "causal-lm"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """The published conversation; a turn of the user is two pieces."""
        before, between, after = _frame(self.model)
        pieces = [f"{before}{question}"]
        for i, text in enumerate((*(past.text for past in history), step)):
            pieces += [between, text.strip(), after] if i else [f" {text.strip()}", after]
        return ScorerRequest(self.model, tuple(pieces), self.kind, choices=("+", "-"))

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """P(+) / (P(+) + P(-))."""
        return StepScore(softmax(output.logits)[0])


@lru_cache(maxsize=16)
def _frame(model: str) -> tuple[str, str, str]:
    """Texts before the problem, from the answer `+` to the next step, and after a step."""
    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer

    tokenizer = load_tokenizer(ModelSpec(model))
    before, between, after = tokenizer.frame(("user", None), ("assistant", "+"), ("user", None))
    if not between.startswith(after):
        raise ChatTemplateError(
            f"the chat template of {model} opens an answer that is to come otherwise than one "
            "that is there, so that steps cannot be judged one after the other"
        )
    return before, between.removeprefix(after), after


@dataclass(frozen=True)
class MathShepherdScorer(StepScorer):
    """Problem, blank, steps on a line each, each followed by ` ки`.

    The value is the probability of ` +` against ` -` at that tag. Steps are read as they were
    written, without the `Step 1:` that the training data had.

    Source: the model card of peiyi9979/math-shepherd-mistral-7b-prm (arXiv 2312.08935).
    """

    @property
    def kind(self) -> Literal["causal-lm"]:
        """Its own language head."""
        return "causal-lm"

    def request(self, question: str, history: Sequence[PastStep], step: str) -> ScorerRequest:
        """The published text, two pieces a step."""
        pieces, blank = [question], " "
        for text in (*(past.text for past in history), step):
            pieces += [blank + text.strip(), STEP_TAG]
            blank = "\n"
        return ScorerRequest(self.model, tuple(pieces), self.kind, choices=(" +", " -"))

    def read(self, history: Sequence[PastStep], output: ScoreOutput) -> StepScore:
        """P(+) / (P(+) + P(-))."""
        return StepScore(softmax(output.logits)[0])
