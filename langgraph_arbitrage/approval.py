"""A human's approval of a step: when it is asked for, what is shown, what may be answered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError
from typing_extensions import TypedDict  # of this one pydantic makes a schema on Python 3.11

from langgraph_arbitrage.errors import ApprovalError, SettingsError

if TYPE_CHECKING:
    from langgraph_arbitrage.state import ArbitrageState, PendingStep

__all__ = [
    "ApprovalRequest",
    "Replacement",
    "approval_request",
    "approved",
    "asks_approval",
    "check_approval",
    "confidence",
]


class ApprovalRequest(TypedDict):
    """The value of the interrupt: what a human decides on."""

    step: int
    """Index of the step, from 0."""
    text: str | None
    """The draft's step; None where the policy left the draft out."""
    score: float | None
    """The policy's score of it."""
    confidence: float | None
    """Mean probability of its tokens under the draft."""
    escalate: bool
    """What the policy decided: whether the target is to write the step again."""
    target_tokens: int
    """Tokens that the target has written for this answer."""
    expected_tokens: float
    """What an escalation may cost in tokens of the target: the mean of its steps so far in this
    answer; before the first, the length of the draft's step (0 without one)."""
    expected_seconds: float | None
    """The same in seconds of the target; None before its first step."""


class Replacement(TypedDict):
    """An answer that puts a text in the place of the draft's step."""

    text: str


def _shape(answer: Any) -> Any:
    match answer:
        case "accept" | "escalate":
            return answer
        case {"text": str(text)} if text.strip() and len(answer) == 1:
            return answer
    raise ValueError


Answer = Literal["accept", "escalate"] | Replacement
DRAFT = Annotated[Answer, BeforeValidator(_shape)]
NO_DRAFT = Annotated[
    Literal["escalate"] | Replacement, BeforeValidator(lambda a: _shape(a if a != "accept" else 0))
]
ALLOWED = (
    '"accept" takes the draft\'s step, "escalate" has the target write it, '
    '{"text": "..."} puts a text in its place'
)


def approved(request: ApprovalRequest) -> Answer:
    """A human's answer; the run stops here until there is one.

    Raises:
        ApprovalError: The answer has another shape. The run still waits: answer it again.
    """
    from langgraph.types import interrupt

    schema = NO_DRAFT if request["text"] is None else DRAFT
    try:
        answer: Answer = interrupt(request, response_schema=schema)  # type: ignore[call-overload]
    except ValidationError as error:
        given = error.errors()[0]["input"]
        no_draft = " (there is no draft's step here)" if request["text"] is None else ""
        raise ApprovalError(
            f"step {request['step']} cannot be resumed with {given!r}: {ALLOWED}{no_draft}. "
            'The step still waits: Command(resume="escalate"), say.'
        ) from None
    return answer


def asks_approval(
    rule: str | None,
    *,
    escalate: bool,
    confidence: float | None,
    target_tokens: int,
    max_target_tokens: int | None,
) -> bool:
    """Whether a human is asked about a step.

    Args:
        rule: The setting `approve`.
        escalate: What the policy decided.
        confidence: Mean probability of the draft's tokens.
        target_tokens: What the target has written for the answer.
        max_target_tokens: The budget.
    """
    if rule is None:
        return False
    if rule == "escalations":
        return escalate
    if rule == "budget":
        return escalate and max_target_tokens is not None and target_tokens >= max_target_tokens
    return confidence is not None and confidence < float(rule.removeprefix("below:"))


def check_approval(limits: Any) -> None:
    """Raise `SettingsError` where `approve` is no rule, or none that fits the other settings."""
    rule = limits.approve
    if rule is None:
        return
    if not isinstance(rule, str) or not (rule in ("escalations", "budget") or _below(rule)):
        raise SettingsError(
            f"approve={rule!r} is no rule; those known are 'escalations', 'budget' and "
            "'below:0.8', a probability above 0 and at most 1"
        )
    if rule == "budget" and limits.max_target_tokens is None:
        raise SettingsError("approve='budget' asks at max_target_tokens: set that, too")
    if limits.policy.needs_target_step:
        raise SettingsError(
            f"approve={rule!r} asks before the target writes, and {type(limits.policy).__name__} "
            "decides after it has written: take another policy, or no approval"
        )


def _below(rule: str) -> bool:
    try:
        return rule.startswith("below:") and 0 < float(rule.removeprefix("below:")) <= 1
    except ValueError:
        return False


def confidence(step: PendingStep | None) -> float | None:
    """Mean probability of a written step's tokens under the model that wrote it."""
    if step is None or not step["logprobs"]:
        return None
    return sum(map(math.exp, step["logprobs"])) / len(step["logprobs"])


def approval_request(state: ArbitrageState, target_tokens: int) -> ApprovalRequest:
    """What a human decides on, from the state before the step is taken."""
    steps, draft, verdict = state["steps"], state.get("draft_step"), state.get("verdict")
    own = [s for s in steps if s["writer"] == "target"]
    unknown = float(len(draft["ids"])) if draft else 0.0
    return ApprovalRequest(
        step=len(steps),
        text=draft["text"] if draft else None,
        score=verdict["score"] if verdict else None,
        confidence=confidence(draft),
        escalate=verdict["escalate"] if verdict else True,
        target_tokens=target_tokens,
        expected_tokens=sum(len(s["ids"]) for s in own) / len(own) if own else unknown,
        expected_seconds=sum(s["writer_seconds"] for s in own) / len(own) if own else None,
    )
