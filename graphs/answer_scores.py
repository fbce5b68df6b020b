"""Scores of a finished answer's steps: by a PRM, or their writers' confidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.nodes.binding import Chat
from langgraph_arbitrage.policies import PastStep, Writer

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from langgraph_arbitrage.config.settings import ArbitrageSettings

__all__ = ["AnswerScores", "confidences"]


class AnswerScores:
    """Scores finished answers with a process reward model (PRM).

    Args:
        settings: Device and limits of the PRM, as of the other models.
        prm: Its checkpoint.

    Raises:
        CheckpointError: The checkpoint is not a PRM of a known format.
    """

    def __init__(self, settings: ArbitrageSettings, prm: str) -> None:
        from langgraph_arbitrage.scorers import load_scorer

        self._scorer = load_scorer(prm, role="prm")
        self._models = Models(settings)

    async def score(self, question: str, message: AIMessage, chat: Chat) -> list[float]:
        """The score of each step of an answer, in [0, 1]. Each step is computed once."""
        history: list[PastStep] = []
        scores = []
        for step in message.response_metadata["arbitrage"]["steps"]:
            request = self._scorer.request(question, history, step["text"])
            [output] = await chat.submit([self._models.scorer_call(request, question)])
            score = self._scorer.read(history, output)
            scores.append(score.value)
            writer: Writer = "draft" if step["writer"] == "draft" else "target"
            history.append(PastStep(writer, step["text"], step["tokens"], score.policy_state))
        return scores


def confidences(message: AIMessage) -> list[float]:
    """Mean token probability of each step under its writer; the answer must have `logprobs`."""
    tokens = iter(message.response_metadata["logprobs"]["content"])
    found = []
    for step in message.response_metadata["arbitrage"]["steps"]:
        if step["writer"] == "human":  # no model wrote it
            continue
        probabilities = [math.exp(next(tokens)["logprob"]) for _ in range(step["tokens"])]
        found.append(sum(probabilities) / len(probabilities))
    return found
