"""The policy judges the draft's step."""

from __future__ import annotations

import time

from langgraph_arbitrage.engine import Score
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.policies import Ask, Decision
from langgraph_arbitrage.run import Run, step_view
from langgraph_arbitrage.state import ArbitrageState, Verdict

__all__ = ["route"]


def route(state: ArbitrageState, run: Run) -> Body:
    """Score the step and decide: accept iff the policy does not escalate."""
    start = time.perf_counter()
    view = step_view(state)
    fault = run.call_fault(state) if run.policy.needs_target else None
    asks = run.policy.asks(view) if fault is None else ()
    readings = (yield [_call(ask, run) for ask in asks]) if asks else []
    # A tool call that cannot be made is escalated, whatever the policy would say.
    decision = run.policy.decide(view, readings) if fault is None else Decision(None, escalate=True)
    verdict = Verdict(
        score=decision.score,
        escalate=decision.escalate,
        memory=list(decision.memory),
        fed=sum(r.fed for r in readings),
        seconds=time.perf_counter() - start,
        fault=fault,
    )
    run.emit(
        StepEvent(
            type="scored",
            step=view.index,
            score=verdict["score"],
            escalate=verdict["escalate"],
            seconds=verdict["seconds"],
            fault=fault,
        )
    )
    return {"verdict": verdict}


def _call(ask: Ask, run: Run) -> Call:
    engine = run.models.scorer(ask.model, ask.kind)
    pieces = run.models.pieces(engine, ask.pieces)
    ids = [token for piece in pieces for token in piece]
    scored = sum(len(piece) for piece in pieces[-ask.scored :])
    return Call(engine, Score(ids, start=max(1, len(ids) - scored)))
