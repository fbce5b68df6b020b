"""The node `draft`: the draft model writes the next step."""

from __future__ import annotations

from typing import Any

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.engine_calls import EngineCall
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.state import ArbitrageState

__all__ = ["draft"]


async def draft(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Write a step z_d after the prefix x."""
    request = run.generation.request("draft", state)
    engine = run.models.engine("draft")
    [output] = await run.submit([EngineCall(engine, request, continues=bool(state["steps"]))])
    step = run.generation.pending("draft", state, output)
    run.emit(
        StepEvent(
            type="drafted",
            step=len(state["steps"]),
            writer="draft",
            text=step["text"],
            tokens=len(step["ids"]),
            seconds=step["seconds"],
        )
    )
    update: dict[str, Any] = {"draft_step": step}
    if (
        run.policy.needs_target_step
    ):  # the policy compares both steps, unless the draft finishes alone
        update["next_node"] = "route" if run.draft_alone(state) else "regenerate"
    return update
