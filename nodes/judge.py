"""A PRM judges the steps of a finished answer."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from langgraph_arbitrage.models.pair import Models
from langgraph_arbitrage.nodes.drive import Call
from langgraph_arbitrage.policies import PastStep, Writer
from langgraph_arbitrage.scorers import StepScorer

__all__ = ["judge"]


def judge(
    question: str, steps: Sequence[Mapping[str, Any]], scorer: StepScorer, models: Models
) -> Generator[Sequence[Call], Any, list[float]]:
    """The PRM's score of each step, in [0, 1]; what it read of one step it reads no more.

    Args:
        question: What is answered.
        steps: `response_metadata["arbitrage"]["steps"]` of the answer.
        scorer: The PRM.
        models: Where its engine is found.
    """
    history: list[PastStep] = []
    scores = []
    for step in steps:
        (reading,) = yield [Call(*models.asked(scorer.ask(question, history, step["text"])))]
        judged = scorer.judge(history, reading)
        scores.append(judged.value)
        writer: Writer = "draft" if step["writer"] == "draft" else "target"
        history.append(PastStep(writer, step["text"], step["tokens"], judged.memory))
    return scores
