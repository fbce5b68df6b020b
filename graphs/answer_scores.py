"""How good a finished answer is: the scores of its steps by a PRM, or its writers' confidence."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.models.pair import Models
from langgraph_arbitrage.nodes.drive import Call
from langgraph_arbitrage.nodes.judge import judge

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from langgraph_arbitrage.settings import ArbitrageSettings

__all__ = ["AnswerScores", "confidences"]


class AnswerScores:
    """A PRM over finished answers.

    Args:
        settings: Where and how the PRM runs, as the other models do.
        prm: Its checkpoint.

    Raises:
        CheckpointError: Its format is not known, or it is no PRM.
    """

    def __init__(self, settings: ArbitrageSettings, prm: str) -> None:
        from langgraph_arbitrage.scorers import load_scorer

        self._scorer = load_scorer(prm, role="prm")
        self._models = Models(settings)

    def of(self, question: str, message: AIMessage) -> Generator[Sequence[Call], Any, list[float]]:
        """The score of each step of an answer, in [0, 1], asked for from within a node's body."""
        steps = message.response_metadata["arbitrage"]["steps"]
        return judge(question, steps, self._scorer, self._models)


def confidences(message: AIMessage) -> list[float]:
    """Mean probability of each step's tokens under its writer; the answer has `logprobs`."""
    told = iter(message.response_metadata["logprobs"]["content"])
    found = []
    for step in message.response_metadata["arbitrage"]["steps"]:
        if step["writer"] == "human":  # no model has written it
            continue
        tokens = [math.exp(next(told)["logprob"]) for _ in range(step["tokens"])]
        found.append(sum(tokens) / len(tokens))
    return found
