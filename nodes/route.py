"""The policy judges the draft's step."""

from __future__ import annotations

import time

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.run import Run, step_view
from langgraph_arbitrage.state import ArbitrageState, Verdict

__all__ = ["route"]


def route(state: ArbitrageState, run: Run) -> Body:
    """Score the step and decide: accept iff the policy does not escalate."""
    start = time.perf_counter()
    view = step_view(state)
    asks = run.policy.asks(view)
    calls = [Call(*run.models.asked(ask)) for ask in asks]
    readings = (yield calls) if calls else []
    decision = run.policy.decide(view, readings)
    verdict = Verdict(
        score=decision.score,
        escalate=decision.escalate,
        memory=list(decision.memory),
        fed=sum(r.fed for r in readings),
        seconds=time.perf_counter() - start,
    )
    run.emit(
        StepEvent(
            type="scored",
            step=view.index,
            score=verdict["score"],
            escalate=verdict["escalate"],
            seconds=verdict["seconds"],
        )
    )
    return {"verdict": verdict}
