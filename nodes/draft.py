"""The draft model writes the next step."""

from __future__ import annotations

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState

__all__ = ["draft"]


def draft(state: ArbitrageState, run: Run) -> Body:
    """Write a step z_d from the prefix x."""
    state, update = run.opened(state)
    (written,) = yield [
        Call(run.models.engine("draft"), run.write("draft", state), continues=bool(state["steps"]))
    ]
    step = run.pending("draft", state, written)
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
    return {**update, "draft_step": step, "target_step": None, "verdict": None}
