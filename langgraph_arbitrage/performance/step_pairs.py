"""Generate answers in which both models write every step, and record the policy's decisions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.training.prefix import Prefix

__all__ = ["StepPair", "generate_step_pairs", "mean"]


@dataclass(frozen=True)
class StepPair:
    """A step written by both models from the same prefix."""

    index: int
    """Index of the step in the answer, from 0."""
    draft_tokens: int
    """Number of tokens of the draft's step."""
    target_tokens: int
    """Number of tokens of the target's step."""
    accepted_draft_tokens: int
    """Number of tokens of the draft's step that the target accepts in verification."""
    escalated: bool
    """Decision of the policy."""
    router_seconds: float
    """Seconds that the decision took."""
    target_scores: bool
    """True if the target has read the draft's step for the decision."""
    target_verifies: bool
    """True if the target has also verified the draft's step for the decision."""

    @property
    def decoded_tokens(self) -> int:
        """Number of tokens that the target decodes one by one if the step is escalated.

        The forward that verifies the draft's step also yields the first token after the accepted
        draft tokens, so the target does not decode that token.
        """
        return max(0, self.target_tokens - self.accepted_draft_tokens - 1)


async def generate_step_pairs(run: Run, questions: Sequence[str], max_steps: int) -> list[StepPair]:
    """Answer questions with the run's policy, and let the target write every step as well.

    Args:
        run: The models and the policy.
        questions: Questions to answer.
        max_steps: Maximum number of steps per answer.
    """
    pairs = []
    for question in questions:
        prefix, index = Prefix.start(run, question), 0
        while not prefix.finished and index < max_steps:
            draft = await prefix.generate("draft")
            decision = await prefix.decide(draft)
            target = await prefix.generate("target", draft=draft)
            pairs.append(
                StepPair(
                    index,
                    len(draft["ids"]),
                    len(target["ids"]),
                    target["accepted_draft_tokens"],
                    decision["escalate"],
                    decision["seconds"],
                    decision["computed_tokens"].get("target", 0) > 0,
                    decision.get("verified") is not None,
                )
            )
            writer, step = ("target", target) if decision["escalate"] else ("draft", draft)
            prefix = await prefix.append(writer, step, decision)  # type: ignore[arg-type]
            index += 1
    return pairs


def mean(numbers: Iterable[float]) -> float:
    """Compute the mean; 0 if there are no numbers."""
    values = list(numbers)
    return statistics.mean(values) if values else 0.0
