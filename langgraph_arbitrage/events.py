"""Events of a run: plain dicts on LangGraph's custom stream.

The chat model forwards them to the custom stream of the calling graph.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from langgraph_arbitrage.state import StepWriter

__all__ = ["StepEvent"]


class StepEvent(TypedDict, total=False):
    """An event of a step. Every event has all fields except the last four.

    | event | when | fields |
    |---|---|---|
    | `drafted` | the draft has written a step | text, tokens, seconds |
    | `scored` | the policy scored it | text, tokens, score, seconds, `escalate`, `invalid_call` |
    | `accepted` | the step, or a human's replacement, is accepted | writer, text, score, tokens |
    | `approval_requested` | a human is asked; the run stops | text, score, tokens |
    | `escalated` | the target will rewrite the step | discarded text, its score, tokens |
    | `target_delta` | the target has written more of its step | new text, tokens so far |
    | `committed` | the step is part of the answer | writer, text, score, tokens, seconds, |
    | | | `accepted_draft_tokens` |
    | `finished` | the answer is complete | whole text, tokens, seconds, `finish_reason` |

    A run that was killed repeats the events of the step in progress when it is resumed. A run
    that waited for a human does not.
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
    """The run's `thread_id`; None without a checkpointer."""
    step: int
    """Index of the step, from 0."""
    writer: StepWriter | None
    """Writer of `text`; None for a whole answer."""
    text: str
    score: float | None
    """The policy's score; None before scoring and for policies without a number."""
    tokens: int
    """Tokens of `text`; with `target_delta`, tokens of the step so far."""
    seconds: float
    escalate: bool
    """With `scored`: the policy's decision."""
    invalid_call: str | None
    """With `scored`: why the step's tool call is invalid, if that alone escalates it."""
    accepted_draft_tokens: int
    """With `committed`: tokens of the draft's step that the target accepted."""
    finish_reason: str
    """With `finished`: why the answer ended."""
