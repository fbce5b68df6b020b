"""Reads the state: the answer in progress, its steps, token counts, seeds and ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph_arbitrage.policies import PastStep, StepText, StepView
from langgraph_arbitrage.prompts.messages import last_question
from langgraph_arbitrage.state import ArbitrageState, PendingStep, RouteDecision, StepRecord

__all__ = [
    "answer_id",
    "begins_answer",
    "computed_tokens",
    "is_finished",
    "joined_text",
    "step_seed",
    "step_view",
    "steps_of",
    "target_tokens",
]


def begins_answer(state: ArbitrageState) -> bool:
    """Return True if the next node begins a new answer."""
    if not state.get("prompts") or state.get("finish_reason") is not None:
        return True
    return state["messages"][-1].id != state.get("question_id")


def is_finished(values: Mapping[str, Any]) -> bool:
    """Return True if the last message of a state is a complete answer."""
    return values.get("finish_reason") is not None and values["messages"][-1].type == "ai"


def steps_of(values: Mapping[str, Any]) -> list[StepRecord]:
    """Return the steps of the last answer in a state; empty before the answer begins."""
    messages = values.get("messages") or []
    in_progress = messages and messages[-1].id == values.get("question_id")
    return list(values.get("steps") or []) if in_progress or is_finished(values) else []


def joined_text(steps: Sequence[StepRecord]) -> str:
    """Return the text of steps, with their separators."""
    return "".join(step["text"] for step in steps)


def step_view(state: ArbitrageState) -> StepView:
    """Return the policy's view of the state. A human's step counts as a step of the target."""
    steps = [] if begins_answer(state) else state["steps"]
    return StepView(
        question=last_question(state["messages"]) if state.get("messages") else "",
        history=tuple(
            PastStep(
                "draft" if s["writer"] == "draft" else "target",
                s["text"],
                len(s["ids"]),
                tuple(s["policy_state"]),
            )
            for s in steps
        ),
        seed=state.get("seed", 0),
        draft=_step_text(state.get("draft_step")),
        target=_step_text(state.get("target_step")),
    )


def _step_text(step: PendingStep | None) -> StepText | None:
    return step and StepText(step["text"], len(step["ids"]), tuple(step["logprobs"]))


def step_seed(seed: int, role: str, index: int) -> int:
    """Return the seed of a step. It is the same in a resumed run and an uninterrupted one."""
    digest = hashlib.blake2b(f"{seed}/{role}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def computed_tokens(
    draft: PendingStep | None, target: PendingStep | None, decision: RouteDecision | None
) -> dict[str, int]:
    """Count the tokens computed for a step, by role."""
    computed = dict(decision["computed_tokens"]) if decision else {}
    for step in (draft, target):
        if step is not None and step["writer"] != "human":
            role = step["writer"]
            computed[role] = computed.get(role, 0) + step["computed_tokens"]
    return computed


def target_tokens(steps: Sequence[StepRecord]) -> int:
    """Count the tokens that the target wrote, discarded steps included."""
    return sum(
        len(s["ids"]) if s["writer"] == "target" else s["discarded_tokens"]
        for s in steps
        if s["writer"] != "human"  # a human's text discards the draft's step
    )


def answer_id(state: ArbitrageState) -> str:
    """Return the message id of the answer. It is the same after a resumption."""
    return f"answer-{state['question_id']}"
