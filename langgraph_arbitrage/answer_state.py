"""What the state says of the answer under way: its steps, its tokens, its seeds, its id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from langgraph_arbitrage.policies import PastStep, StepText, StepView
from langgraph_arbitrage.prompts import last_question
from langgraph_arbitrage.state import ArbitrageState, PendingStep, StepRecord, Verdict

__all__ = [
    "answer_id",
    "begins_answer",
    "forwarded",
    "step_seed",
    "step_view",
    "steps_so_far",
    "target_tokens",
]


def begins_answer(state: ArbitrageState) -> bool:
    """Whether the next node opens a new answer."""
    if not state.get("prompts") or state.get("finish_reason") is not None:
        return True
    return state["messages"][-1].id != state.get("answers")


def steps_so_far(state: ArbitrageState) -> list[StepRecord]:
    """The steps of the answer under way."""
    return [] if begins_answer(state) else state["steps"]


def step_view(state: ArbitrageState) -> StepView:
    """What a policy sees of the state. A human's step counts as one of the target's."""
    return StepView(
        question=last_question(state["messages"]) if state.get("messages") else "",
        history=tuple(
            PastStep(
                "draft" if s["writer"] == "draft" else "target",
                s["text"],
                len(s["ids"]),
                tuple(s["memory"]),
            )
            for s in steps_so_far(state)
        ),
        seed=state.get("seed", 0),
        draft=_step_text(state.get("draft_step")),
        target=_step_text(state.get("target_step")),
    )


def _step_text(step: PendingStep | None) -> StepText | None:
    return step and StepText(step["text"], len(step["ids"]), tuple(step["logprobs"]))


def step_seed(seed: int, role: str, index: int) -> int:
    """A seed for each writer and step, so that a resumed run draws what the unbroken one drew."""
    digest = hashlib.blake2b(f"{seed}/{role}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def forwarded(
    draft: PendingStep | None, target: PendingStep | None, verdict: Verdict | None
) -> dict[str, int]:
    """Tokens fed through each model for a step."""
    fed = dict(verdict["fed"]) if verdict else {}
    for step in (draft, target):
        if step is not None and step["writer"] != "human":
            fed[step["writer"]] = fed.get(step["writer"], 0) + step["fed"]
    return fed


def target_tokens(steps: Sequence[StepRecord]) -> int:
    """Tokens that the target wrote, those of discarded steps included."""
    return sum(
        len(s["ids"]) if s["writer"] == "target" else s["discarded"]
        for s in steps
        if s["writer"] != "human"  # what that discarded was the draft's
    )


def answer_id(state: ArbitrageState) -> str:
    """Id of the answer's message, the same after a resumption."""
    return f"answer-{state['answers']}"
