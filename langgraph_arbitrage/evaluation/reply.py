"""An answer as the evaluation keeps it: its steps, what was rejected, tokens and seconds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.engine_calls import CancelScope
from langgraph_arbitrage.runner import Runner

__all__ = ["Answerer", "GraphAnswerer", "Reply", "StepRow", "answered"]


class StepRow(TypedDict, total=False):
    """A step of an answer."""

    writer: str
    text: str
    score: float | None
    """The policy's."""
    tokens: int
    seconds: float
    draft: str | None
    """The draft's step that this one of the target replaced."""
    s_d: float | None
    """PRM score of the draft's step."""
    s_t: float | None
    """PRM score of the target's step."""


@dataclass
class Reply:
    """An answer."""

    text: str
    steps: list[StepRow]
    seconds: float
    """From the question to the last token."""
    finish: str
    draft_tokens: int
    target_tokens: int
    """Tokens of the answer, by the model that wrote them."""
    discarded_tokens: int


class Answerer(Protocol):
    """Who answers the questions of a point."""

    def warm_up(self) -> float:
        """Load the models, and leave nothing of earlier answers in their caches."""

    def answer(self, prompt: str, scope: CancelScope) -> Reply:
        """Answer a question; cancelling the scope ends it."""

    def close(self) -> None:
        """Give the models back."""


class GraphAnswerer:
    """The loop itself, as the chat model runs it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def warm_up(self) -> float:
        """Load the models, and leave nothing of earlier answers in their caches."""
        return self._runner.warm_up()

    def answer(self, prompt: str, scope: CancelScope) -> Reply:
        """Answer a question."""
        steps = _Steps()
        found = self._runner.answer(prompt, steps, cancel=scope, quiet=True)
        figures: dict[str, Any] = found.statistics
        return Reply(
            found.text,
            steps.rows,
            found.seconds,
            figures["finish_reason"],
            figures["draft_tokens"],
            figures["target_tokens"],
            figures["discarded_tokens"],
        )

    def close(self) -> None:
        """Give the models back."""
        self._runner.close()


async def answered(answerer: Answerer, prompt: str) -> Reply:
    """An answer on another thread; whoever cancels the task stops the models."""
    scope = CancelScope()
    try:
        return await asyncio.to_thread(answerer.answer, prompt, scope)
    except asyncio.CancelledError:
        scope.cancel()
        raise


class _Steps:
    """Collects the steps of a run from its events, those that lost with those that won."""

    def __init__(self) -> None:
        self.rows: list[StepRow] = []
        self._drafted: str | None = None

    def __call__(self, event: StepEvent) -> None:
        match event["type"]:
            case "drafted":
                self._drafted = event["text"]
            case "committed":
                lost = self._drafted if event["writer"] == "target" else None
                self.rows.append(
                    StepRow(
                        writer=str(event["writer"]),
                        text=event["text"],
                        score=event["score"],
                        tokens=event["tokens"],
                        seconds=round(event["seconds"], 5),
                        draft=lost,
                        s_d=None,
                        s_t=None,
                    )
                )
                self._drafted = None
