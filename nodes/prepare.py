"""The node `prepare`: begins an answer, or adapts a resumed one to this run."""

from __future__ import annotations

from typing import Any

from langgraph_arbitrage.loop.answer_state import begins_answer
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.persistence.migrate import apply_update, migrate
from langgraph_arbitrage.state import ArbitrageState

__all__ = ["prepare"]


async def prepare(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Begin an answer to a new last message, or continue the answer in progress."""
    update = run.open_answer(state) if begins_answer(state) else migrate(state, run)
    return {**update, "next_node": _next_node(apply_update(state, update), run)}


def _next_node(state: ArbitrageState, run: Run) -> str:
    """Return the node at which the answer continues. A resumed answer may have pending steps."""
    draft, target, decision = state["draft_step"], state["target_step"], state["decision"]
    if decision is not None:
        if decision["needs_approval"]:
            return "approve"
        return "regenerate" if decision["escalate"] and target is None else "commit"
    if draft is not None:
        return "regenerate" if run.policy.needs_target_step and target is None else "route"
    return "commit" if target is not None else run.first_writer(state)
