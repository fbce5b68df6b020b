"""The events of a run: plain dicts in LangGraph's custom stream.

If a graph calls the chat model, the chat model writes its events to that graph's custom stream.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from langgraph_arbitrage.state import StepWriter

__all__ = ["StepEvent"]


class StepEvent(TypedDict, total=False):
    """An event of a step. Every event has all fields except the last four.

    | event | when | meaningful fields |
    |---|---|---|
    | `drafted` | the draft has generated a step | text, tokens, seconds |
    | `scored` | the policy has scored the draft's step | text, tokens, score, seconds, |
    | | | `escalate`, `invalid_call` |
    | `accepted` | the step, or a human's replacement, is accepted | writer, text, score, tokens |
    | `approval_requested` | the run stops until a human approves | text, score, tokens |
    | `escalated` | the target will generate the step again | discarded text, its score, tokens |
    | `target_delta` | the target has generated more of its step | new text, tokens so far |
    | `committed` | the step is part of the answer | writer, text, score, tokens, seconds, |
    | | | `accepted_draft_tokens` |
    | `finished` | the answer is complete | whole text, tokens, seconds, `finish_reason` |

    If a process is killed, the resumed run repeats the events of the step in progress. If a run
    waited for approval, the resumed run repeats no events.
    """

    type: Literal[
        "drafted",
        "scored",
        "accepted",
        "approval_requested",
        "escalated",
        "target_delta",
        "committed",
        "finished",
    ]
    thread: str | None
    """The run's `thread_id`. None without a checkpointer."""
    step: int
    """Index of the step, from 0."""
    writer: StepWriter | None
    """Writer of `text`. None for a `finished` event, whose text may have several writers."""
    text: str
    score: float | None
    """The policy's score. None before scoring, and if the policy computes no score."""
    tokens: int
    """Number of tokens of `text`. With `target_delta`: number of tokens of the step so far."""
    seconds: float
    """Seconds of the work that the event reports: one model's step (`drafted`), its scoring
    (`scored`), all models (`committed`), or all steps (`finished`). Otherwise 0."""
    escalate: bool
    """With `scored`: whether the policy escalates the step."""
    invalid_call: str | None
    """With `scored`: why the step's tool call is invalid, if that is the only reason to escalate.
    Otherwise None."""
    accepted_draft_tokens: int
    """With `committed`: number of tokens of the draft's step that the target accepted."""
    finish_reason: str
    """With `finished`: why the answer ended, such as `stop` or `length`."""
