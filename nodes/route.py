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
    """Score the step and decide: accept iff the policy does not escalate.

    Once a budget is spent there is nothing to decide: the draft goes on alone.
    """
    start = time.perf_counter()
    view = step_view(state)
    alone = run.draft_alone(state)
    asks = [] if alone else run.policy.asks(view)
    readings = (yield [_call(ask, run) for ask in asks]) if asks else []
    decision = Decision(None, False) if alone else run.policy.decide(view, readings)
    verdict = Verdict(
        score=decision.score,
        escalate=decision.escalate,
        ask=run.asks(state, escalate=decision.escalate) and not alone,
        memory=list(decision.memory),
        fed=sum(r.fed for r in readings),
        seconds=time.perf_counter() - start,
    )
    _tell(state, verdict, run)
    return {"verdict": verdict}


def _tell(state: ArbitrageState, verdict: Verdict, run: Run) -> None:
    """The score, and what follows from it: accepted, escalated, or a human is asked."""
    step = state["draft_step"]
    assert step is not None  # noqa: S101 - an edge of the graph leads here
    told = StepEvent(
        step=len(state["steps"]),
        writer="draft",
        text=step["text"],
        score=verdict["score"],
        tokens=len(step["ids"]),
    )
    escalate = verdict["escalate"]
    run.emit({**told, "type": "scored", "escalate": escalate, "seconds": verdict["seconds"]})
    if verdict["ask"]:
        run.emit({**told, "type": "asked"})
    else:
        run.emit({**told, "type": "escalated" if escalate else "accepted"})


def _call(ask: Ask, run: Run) -> Call:
    engine = run.models.scorer(ask.model, ask.kind)
    pieces = run.models.pieces(engine, ask.pieces)
    ids = [token for piece in pieces for token in piece]
    scored = sum(len(piece) for piece in pieces[-ask.scored :])
    return Call(engine, Score(ids, start=max(1, len(ids) - scored)))
