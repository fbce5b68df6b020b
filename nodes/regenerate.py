"""The target model writes a step from the same prefix as the draft did."""

from __future__ import annotations

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState

__all__ = ["regenerate"]


def regenerate(state: ArbitrageState, run: Run) -> Body:
    """Write a step z_t from the prefix x, telling its text token by token.

    Where the policy still has to choose between both steps, nothing is told before it has.
    """
    state, update = run.opened(state)
    index = len(state["steps"])
    ids: list[int] = []
    told = ""

    def tell(token: int) -> None:
        nonlocal told
        ids.append(token)
        text = run.models.step_text("target", state["prompts"], state["steps"], ids)
        if len(text) > len(told):
            run.emit(StepEvent(type="writing", step=index, writer="target", text=text[len(told) :]))
            told = text

    listener = None if run.policy.needs_target_step or run.quiet else tell
    under_way = bool(state["steps"] or state.get("draft_step"))
    (written,) = yield [
        Call(run.models.engine("target"), run.write("target", state), listener, under_way)
    ]
    step = run.pending("target", state, written)
    return {**update, "target_step": step, **({} if state.get("draft_step") else _NO_DRAFT)}


_NO_DRAFT = {"draft_step": None, "verdict": None}
