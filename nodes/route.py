"""The policy judges the draft's step."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langgraph_arbitrage.answer_state import step_view
from langgraph_arbitrage.engine import ScoreOutput
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.nodes.drive import Body, Call
from langgraph_arbitrage.policies import Ask, AskTarget, Decision
from langgraph_arbitrage.run import Run
from langgraph_arbitrage.state import ArbitrageState, Verdict

__all__ = ["route"]


def route(state: ArbitrageState, run: Run) -> Body:
    """Score the step and decide: accept iff the policy does not escalate.

    Once a budget is spent there is nothing to decide: the draft goes on alone.
    """
    start = time.perf_counter()
    view = step_view(state)
    alone = run.draft_alone(state)
    fault = run.call_fault(state) if run.policy.needs_target and not alone else None
    asks = [] if alone or fault is not None else run.policy.asks(view)
    calls = [_call(ask, state, run) for ask in asks]
    readings = (yield calls) if calls else []
    if alone or fault is not None:
        # A tool call that cannot be made is escalated, whatever the policy would say.
        decision = Decision(None, escalate=not alone)
    else:
        decision = run.policy.decide(view, readings)
    verdict = Verdict(
        score=decision.score,
        escalate=decision.escalate,
        ask=run.asks(state, escalate=decision.escalate) and not alone,
        memory=list(decision.memory),
        fed=_fed(asks, readings),
        seconds=time.perf_counter() - start,
        fault=fault,
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
    figures = StepEvent(escalate=escalate, fault=verdict["fault"], seconds=verdict["seconds"])
    run.emit({**told, **figures, "type": "scored"})
    if verdict["ask"]:
        run.emit({**told, "type": "asked"})
    else:
        run.emit({**told, "type": "escalated" if escalate else "accepted"})


def _call(ask: Ask | AskTarget, state: ArbitrageState, run: Run) -> Call:
    if isinstance(ask, Ask):
        return Call(*run.models.asked(ask))
    draft = state["draft_step"]
    assert draft is not None  # noqa: S101 - an edge of the graph leads here
    ids = run.models.crossed("target", "draft", draft["ids"], draft["text"])
    return Call(*run.models.asked_target(ask, state["prompts"], state["steps"], ids))


def _fed(asks: Sequence[Ask | AskTarget], readings: Sequence[ScoreOutput]) -> dict[str, int]:
    """Tokens fed through each model that was asked."""
    fed = {"router": 0}
    for ask, reading in zip(asks, readings, strict=True):
        role = "router" if isinstance(ask, Ask) else "target"
        fed[role] = fed.get(role, 0) + reading.computed_tokens
    return fed
