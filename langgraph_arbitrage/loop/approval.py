"""Human approval of a step: the rule, the request and its valid answers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError
from typing_extensions import TypedDict  # pydantic requires this TypedDict on Python 3.11

from langgraph_arbitrage.config.run_options import below_threshold
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.errors import ApprovalError
from langgraph_arbitrage.loop.answer_state import target_tokens
from langgraph_arbitrage.state import ArbitrageState, PendingStep

__all__ = [
    "ApprovalRequest",
    "Replacement",
    "approval_request",
    "needs_approval",
    "wait_for_approval",
]


class ApprovalRequest(TypedDict):
    """The value of the interrupt: the step that a human decides on."""

    step: int
    """Index of the step, from 0."""
    text: str | None
    """The draft's step; None if the policy skipped the draft."""
    score: float | None
    """The policy's score of the step."""
    confidence: float | None
    """Mean probability of its tokens under the draft."""
    escalate: bool
    """The policy's decision: True if the target would rewrite the step."""
    target_tokens: int
    """Number of tokens that the target has written for this answer."""
    expected_tokens: float
    """Estimated target tokens of an escalation: the mean of the target's steps in this answer, or
    the length of the draft's step before the target's first step (0 without a draft's step)."""
    expected_seconds: float | None
    """Estimated seconds of an escalation; None before the target's first step."""


class Replacement(TypedDict):
    """An answer that replaces the draft's step with a text."""

    text: str


def _check_shape(answer: Any) -> Any:
    match answer:
        case "accept" | "escalate":
            return answer
        case {"text": str(text)} if text.strip() and len(answer) == 1:
            return answer
    raise ValueError


Answer = Literal["accept", "escalate"] | Replacement
ANSWER = Annotated[Answer, BeforeValidator(_check_shape)]
ANSWER_WITHOUT_DRAFT = Annotated[
    Literal["escalate"] | Replacement,
    BeforeValidator(lambda answer: _check_shape(answer if answer != "accept" else None)),
]
ALLOWED = (
    '"accept" accepts the draft\'s step, "escalate" lets the target write it, '
    '{"text": "..."} replaces it with a text'
)


def needs_approval(state: ArbitrageState, settings: RunSettings, *, escalate: bool) -> bool:
    """Return True if a human must approve the pending step.

    Args:
        state: The state, with the draft's step if there is one.
        settings: The run's settings.
        escalate: The policy's decision.
    """
    rule = settings.approve
    if rule is None:
        return False
    if rule == "escalations":
        return escalate
    if rule == "budget":
        budget = settings.max_target_tokens
        return escalate and budget is not None and target_tokens(state["steps"]) >= budget
    confidence = mean_probability(state.get("draft_step"))
    return confidence is not None and confidence < below_threshold(rule)


def wait_for_approval(request: ApprovalRequest) -> Answer:
    """Return a human's answer. The run stops until there is one.

    Raises:
        ApprovalError: The answer has another shape. The run keeps waiting for a valid one.
    """
    from langgraph.types import interrupt

    schema = ANSWER_WITHOUT_DRAFT if request["text"] is None else ANSWER
    try:
        answer: Answer = interrupt(request, response_schema=schema)  # type: ignore[call-overload]
    except ValidationError as error:
        given = error.errors()[0]["input"]
        no_draft = " (this step has no draft)" if request["text"] is None else ""
        raise ApprovalError(
            f"step {request['step']} cannot be resumed with {given!r}: {ALLOWED}{no_draft}. "
            'The run still waits: resume it again, for example with Command(resume="escalate").'
        ) from None
    return answer


def approval_request(state: ArbitrageState) -> ApprovalRequest:
    """Build the request for approval from the state before the step is committed."""
    steps, draft, decision = state["steps"], state.get("draft_step"), state.get("decision")
    own = [s for s in steps if s["writer"] == "target"]
    draft_tokens = float(len(draft["ids"])) if draft else 0.0
    return ApprovalRequest(
        step=len(steps),
        text=draft["text"] if draft else None,
        score=decision["score"] if decision else None,
        confidence=mean_probability(draft),
        escalate=decision["escalate"] if decision else True,
        target_tokens=target_tokens(steps),
        expected_tokens=sum(len(s["ids"]) for s in own) / len(own) if own else draft_tokens,
        expected_seconds=sum(s["writer_seconds"] for s in own) / len(own) if own else None,
    )


def mean_probability(step: PendingStep | None) -> float | None:
    """Compute the mean probability of a step's tokens under its writer; None if unknown."""
    if step is None or not step["logprobs"]:
        return None
    return sum(map(math.exp, step["logprobs"])) / len(step["logprobs"])
