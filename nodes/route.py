"""The policy judges the draft's step."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langgraph_arbitrage.engine import Reading
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.policies import Ask, AskTarget
from langgraph_arbitrage.run import Run, step_view
from langgraph_arbitrage.state import ArbitrageState, Verdict

__all__ = ["route"]


def route(state: ArbitrageState, run: Run) -> Body:
    """Score the step and decide: accept iff the policy does not escalate."""
    start = time.perf_counter()
    view = step_view(state)
    asks = run.policy.asks(view)
    calls = [_call(ask, state, run) for ask in asks]
    readings = (yield calls) if calls else []
    decision = run.policy.decide(view, readings)
    verdict = Verdict(
        score=decision.score,
        escalate=decision.escalate,
        memory=list(decision.memory),
        fed=_fed(asks, readings),
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


def _call(ask: Ask | AskTarget, state: ArbitrageState, run: Run) -> Call:
    if isinstance(ask, Ask):
        return Call(*run.models.asked(ask))
    draft = state["draft_step"]
    assert draft is not None  # noqa: S101 - an edge of the graph leads here
    ids = run.models.crossed("target", "draft", draft["ids"], draft["text"])
    return Call(*run.models.asked_target(ask, state["prompts"], state["steps"], ids))


def _fed(asks: Sequence[Ask | AskTarget], readings: Sequence[Reading]) -> dict[str, int]:
    """Tokens fed through each model that was asked."""
    fed = {"router": 0}
    for ask, reading in zip(asks, readings, strict=True):
        role = "router" if isinstance(ask, Ask) else "target"
        fed[role] = fed.get(role, 0) + reading.fed
    return fed
