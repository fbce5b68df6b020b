"""What a run tells while it goes: one plain dict an event, on LangGraph's custom stream."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["StepEvent"]


class StepEvent(TypedDict, total=False):
    """Something that happened to a step.

    | event | when | carries |
    |---|---|---|
    | `drafted` | the draft wrote a step | text, tokens, seconds |
    | `scored` | the policy judged it | score, escalate, fault, seconds |
    | `writing` | the target wrote some more of its step | text (what is new) |
    | `committed` | a step became part of the answer | writer, text, score, tokens, seconds |
    | `finished` | the answer is complete | text, reason |
    """

    type: Literal["drafted", "scored", "writing", "committed", "finished"]
    step: int
    """Index of the step, from 0."""
    writer: str
    text: str
    score: float | None
    escalate: bool
    fault: str | None
    """Why the step's tool call cannot be made, where that alone escalates it."""
    tokens: int
    seconds: float
    reason: str
