"""Answers recorded by the evaluation: steps, replaced draft steps, token counts and latency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.engine_calls import CancelScope
from langgraph_arbitrage.runner import Runner

__all__ = ["Answerer", "GraphAnswerer", "Reply", "StepRow", "answer_async"]


class StepRow(TypedDict, total=False):
    """A step of an answer."""

    writer: str
    text: str
    score: float | None
    """Score that the policy assigned to the draft's step; None if the policy assigned no score."""
    tokens: int
    seconds: float
    draft: str | None
    """Text of the draft's step that the target replaced; None if no draft step was replaced."""
    s_d: float | None
    """PRM score of the draft's step."""
    s_t: float | None
    """PRM score of the target's step."""


@dataclass
class Reply:
    """An answer with its steps and statistics."""

    text: str
    steps: list[StepRow]
    seconds: float
    """Latency from the question to the last token."""
    finish: str
    """Finish reason, such as `stop` or `length`."""
    draft_tokens: int
    """Number of tokens in the answer that the draft wrote."""
    target_tokens: int
    """Number of tokens in the answer that the target wrote."""
    discarded_tokens: int
    """Number of draft tokens that are not part of the answer."""
    accepted_draft_tokens: int = 0
    """Number of target tokens that were accepted from the draft's steps instead of decoded."""
    computed_tokens: dict[str, int] = field(default_factory=dict)
    """Number of tokens that each model computed, by role. Empty for token-level speculation."""


class Answerer(Protocol):
    """Answers questions with the policy and threshold of one point."""

    def warm_up(self) -> float:
        """Load the models and clear their caches. Return the seconds it took."""

    def answer(self, prompt: str, scope: CancelScope) -> Reply:
        """Answer a question. Cancelling `scope` stops generation."""

    def close(self) -> None:
        """Release the models."""


class GraphAnswerer:
    """Answers with the loop of draft, route and commit, which the chat model also uses.

    Args:
        runner: Runs the loop.
        count_tokens: Called on the answering thread with the number of tokens of each step that a
            model has generated.
    """

    def __init__(self, runner: Runner, count_tokens: Callable[[int], None] | None = None) -> None:
        self._runner = runner
        self._count_tokens = count_tokens

    def warm_up(self) -> float:
        """Load the models and clear their caches. Return the seconds it took."""
        return self._runner.warm_up()

    def answer(self, prompt: str, scope: CancelScope) -> Reply:
        """Answer a question. Cancelling `scope` stops generation."""
        steps = _StepCollector(self._count_tokens)
        answer = self._runner.answer(prompt, steps, cancel=scope, quiet=True)
        statistics: dict[str, Any] = answer.statistics
        return Reply(
            answer.text,
            steps.rows,
            answer.seconds,
            statistics["finish_reason"],
            statistics["draft_tokens"],
            statistics["target_tokens"],
            statistics["discarded_tokens"],
            statistics["accepted_draft_tokens"],
            dict(statistics["computed_tokens"]),
        )

    def close(self) -> None:
        """Release the models."""
        self._runner.close()


async def answer_async(answerer: Answerer, prompt: str) -> Reply:
    """Answer on another thread. Cancelling the task stops generation."""
    scope = CancelScope()
    try:
        return await asyncio.to_thread(answerer.answer, prompt, scope)
    except asyncio.CancelledError:
        scope.cancel()
        raise


class _StepCollector:
    """Collects the committed steps of a run, with the draft steps that the target replaced."""

    def __init__(self, count_tokens: Callable[[int], None] | None = None) -> None:
        self.rows: list[StepRow] = []
        self._count_tokens = count_tokens or (lambda tokens: None)
        self._drafted: str | None = None

    def __call__(self, event: StepEvent) -> None:
        match event["type"]:
            case "drafted":
                self._drafted = event["text"]
                self._count_tokens(event["tokens"])
            case "committed":
                replaced = self._drafted if event["writer"] == "target" else None
                if event["writer"] == "target":
                    self._count_tokens(event["tokens"])
                self.rows.append(
                    StepRow(
                        writer=str(event["writer"]),
                        text=event["text"],
                        score=event["score"],
                        tokens=event["tokens"],
                        seconds=round(event["seconds"], 5),
                        draft=replaced,
                        s_d=None,
                        s_t=None,
                    )
                )
                self._drafted = None
