"""What the models do to each other's steps: questions answered, each step written by both."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.training.prefix import Prefix

__all__ = ["Walked", "walk"]


@dataclass(frozen=True)
class Walked:
    """One step, written by both models from the same prefix."""

    index: int
    """Its place in the answer, from 0."""
    draft_tokens: int
    target_tokens: int
    kept: int
    """Tokens of the draft's step that the target kept."""
    escalated: bool
    """What the policy decided."""
    router_seconds: float

    @property
    def decoded(self) -> int:
        """Tokens of its step that the target decodes, the one where they part not among them."""
        return max(0, self.target_tokens - self.kept - 1)


async def walk(run: Run, questions: Sequence[str], max_steps: int) -> list[Walked]:
    """Answer by the run's policy, and have the target verify every step of the draft's."""
    found = []
    for question in questions:
        prefix, index = Prefix.start(run, question), 0
        while not prefix.finished and index < max_steps:
            draft = await prefix.generate("draft")
            verdict = await prefix.decide(draft)
            target = await prefix.generate("target", draft=draft)
            found.append(
                Walked(
                    index,
                    len(draft["ids"]),
                    len(target["ids"]),
                    target["accepted_draft_tokens"],
                    verdict["escalate"],
                    verdict["seconds"],
                )
            )
            writer, step = ("target", target) if verdict["escalate"] else ("draft", draft)
            prefix = await prefix.append(writer, step, verdict)  # type: ignore[arg-type]
            index += 1
    return found


def mean(numbers: Iterable[float]) -> float:
    """The mean; 0 of none."""
    values = list(numbers)
    return statistics.mean(values) if values else 0.0
