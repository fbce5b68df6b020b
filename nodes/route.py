"""The node `route`: the policy scores the draft's step and decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from langgraph_arbitrage.engine import GenerateOutput, ScoreOutput
from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.loop.engine_calls import EngineCall
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.policies import (
    Decision,
    DraftVerification,
    PolicyRequest,
    ScorerRequest,
)
from langgraph_arbitrage.prompts.messages import last_question
from langgraph_arbitrage.state import ArbitrageState, RouteDecision, VerifiedTokens

__all__ = ["route"]


async def route(state: ArbitrageState, run: Run) -> dict[str, Any]:
    """Accept the draft's step iff the policy does not escalate it.

    Two cases bypass the policy: the draft continues alone once a budget is spent, and an invalid
    tool call is always escalated.
    """
    start = time.perf_counter()
    view = run.generation.view(state)
    alone = run.draft_alone(state)
    invalid = None if alone or not run.policy.needs_target else run.generation.invalid_call(state)
    if alone or invalid is not None:
        requests, outputs = [], []
        decision = Decision(None, escalate=not alone)
    else:
        requests = list(run.policy.scorer_requests(view))
        calls = [_call(request, state, run) for request in requests]
        outputs = await run.submit(calls) if calls else []
        decision = run.policy.decide(view, [_scores(output) for output in outputs])
    routed = RouteDecision(
        score=decision.score,
        escalate=decision.escalate,
        needs_approval=not alone and run.needs_approval(state, escalate=decision.escalate),
        policy_state=list(decision.policy_state),
        computed_tokens=_computed_tokens(requests, outputs),
        seconds=time.perf_counter() - start,
        invalid_call=invalid,
        verified=_verified_tokens(outputs),
    )
    _emit(state, routed, run)
    return {"decision": routed}


def _emit(state: ArbitrageState, decision: RouteDecision, run: Run) -> None:
    """Emit the events of the score and the decision."""
    step = state["draft_step"]
    assert step is not None  # noqa: S101 - an edge of the graph leads here
    event = StepEvent(
        step=len(state["steps"]),
        writer="draft",
        text=step["text"],
        score=decision["score"],
        tokens=len(step["ids"]),
    )
    scored = StepEvent(
        type="scored",
        escalate=decision["escalate"],
        invalid_call=decision["invalid_call"],
        seconds=decision["seconds"],
    )
    run.emit(event | scored)
    if decision["needs_approval"]:
        run.emit({**event, "type": "approval_requested"})
    else:
        run.emit({**event, "type": "escalated" if decision["escalate"] else "accepted"})


def _call(request: PolicyRequest, state: ArbitrageState, run: Run) -> EngineCall:
    """Build the engine call for a policy's request."""
    if isinstance(request, ScorerRequest):
        return run.models.scorer_call(request, last_question(state["messages"]))
    if isinstance(request, DraftVerification):
        return EngineCall(
            run.models.engine("target"), run.generation.request("target", state, verify_only=True)
        )
    draft = state["draft_step"]
    assert draft is not None  # noqa: S101 - an edge of the graph leads here
    ids = run.models.convert_ids("target", "draft", draft["ids"], draft["text"])
    return run.models.target_call(request, state["prompts"], state["steps"], ids)


def _scores(output: ScoreOutput | GenerateOutput) -> ScoreOutput:
    """Return the scores that the policy receives."""
    if isinstance(output, ScoreOutput):
        return output
    assert output.draft_scores is not None  # noqa: S101 - the request was `verify_only`
    return output.draft_scores


def _verified_tokens(outputs: Sequence[ScoreOutput | GenerateOutput]) -> VerifiedTokens | None:
    """Return the beginning of the target's step, if a request verified the draft's step."""
    for output in outputs:
        if isinstance(output, GenerateOutput) and output.ids:
            return VerifiedTokens(
                ids=output.ids,
                logprobs=output.logprobs,
                accepted_draft_tokens=output.accepted_draft_tokens,
                finish_reason=output.finish,
            )
    return None


def _computed_tokens(
    requests: Sequence[PolicyRequest], outputs: Sequence[ScoreOutput | GenerateOutput]
) -> dict[str, int]:
    """Count the tokens that each model computed to score the step."""
    computed = {"router": 0}
    for request, output in zip(requests, outputs, strict=True):
        role = "router" if isinstance(request, ScorerRequest) else "target"
        computed[role] = computed.get(role, 0) + output.computed_tokens
    return computed
