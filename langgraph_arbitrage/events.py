"""What a run tells while it goes: one plain dict an event, on LangGraph's custom stream.

The chat model forwards the same events to the custom stream of the graph that it is used in.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from langgraph_arbitrage.state import StepWriter

__all__ = ["StepEvent"]


class StepEvent(TypedDict, total=False):
    """Something that happened to a step. Every event has all fields but the last four.

    | event | when | what its fields say |
    |---|---|---|
    | `drafted` | the draft wrote a step | its text, tokens, seconds |
    | `scored` | the policy judged it | its text, tokens; score, `escalate`, `fault`, its seconds |
    | `accepted` | it is taken, or a human's text in its place | writer, text, score, tokens |
    | `asked` | a human is asked about it; the run stops | its text, score, tokens |
    | `escalated` | the target is to write it again | the text that lost, its score, tokens |
    | `writing` | the target wrote some more of its step | the text that is new |
    | `committed` | it is part of the answer | writer, text, score, tokens, `kept`, its seconds |
    | `finished` | the answer is complete | its text, tokens, seconds, `reason`; the last step |

    A run that was killed in a step tells that step again when it goes on; one that waited for a
    human does not.
    """

    type: Literal[
        "drafted", "scored", "accepted", "asked", "escalated", "writing", "committed", "finished"
    ]
    thread: str | None
    """The run's `thread_id`; None without a checkpointer."""
    step: int
    """Index of the step, from 0."""
    writer: StepWriter | None
    """Who wrote `text`; None for a whole answer."""
    text: str
    score: float | None
    """The policy's; None before it judged, and where it does not go by a number."""
    tokens: int
    """How many tokens `text` has; of a part that is being written, how many are there by now."""
    seconds: float
    escalate: bool
    """With `scored`: what the policy decided."""
    fault: str | None
    """With `scored`: why the step's tool call cannot be made, where that alone escalates it."""
    kept: int
    """With `committed`: how many of its tokens the target kept of the draft's step."""
    reason: str
    """With `finished`: the finish reason."""
