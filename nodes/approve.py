"""The node `approve`: a human decides about a step."""

from __future__ import annotations

from typing import Any

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.approval import approval_request, wait_for_approval
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.persistence.migrate import human_step
from langgraph_arbitrage.state import ArbitrageState, RouteDecision

__all__ = ["approve"]

UNSCORED = RouteDecision(
    score=None,
    escalate=True,
    needs_approval=True,
    policy_state=[],
    computed_tokens={},
    seconds=0.0,
    invalid_call=None,
)


async def approve(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Wait until a human accepts the draft's step, escalates it, or replaces it with a text."""
    draft = state["draft_step"]
    answer = wait_for_approval(approval_request(state))
    step = None if isinstance(answer, str) else human_step(answer["text"], draft, run.models)
    decision = RouteDecision(
        **{
            **(state["decision"] or UNSCORED),
            "escalate": answer != "accept",
            "needs_approval": False,
        }
    )
    if shown := step or draft:
        run.emit(
            StepEvent(
                type="escalated" if answer == "escalate" else "accepted",
                step=len(state["steps"]),
                writer=shown["writer"],
                text=shown["text"],
                score=decision["score"],
                tokens=len(shown["ids"]),
            )
        )
    return {"decision": decision, "target_step": step}
