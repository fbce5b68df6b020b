"""The state of a run: plain, serializable data only.

It holds no tensors, no dataclasses and no pydantic objects other than messages, so that any
checkpointer can store it and strict msgpack can load it. Keys and values of the models are never
state: the engine finds them again by their token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.graph.message import add_messages

from langgraph_arbitrage.tools.response_format import OutputConstraints

__all__ = [
    "STATE_VERSION",
    "ArbitrageState",
    "MessagesInput",
    "ModelIdentity",
    "PendingStep",
    "RouteDecision",
    "StepRecord",
    "StepWriter",
    "VerifiedTokens",
]

STATE_VERSION = 2
"""Version of this schema, stored with each answer. Answers of other versions are refused."""

StepWriter = Literal["draft", "target", "human"]
"""Who wrote a step. A human's step has token ids of the target's vocabulary."""


class ModelIdentity(TypedDict):
    """Identifies a model."""

    path: str
    """Local folder or hub id."""
    digest: str
    """Digest of its files, which tells apart models of one name; empty if they are not local."""


class PendingStep(TypedDict):
    """A generated step that is not yet part of the answer."""

    writer: StepWriter
    ids: list[int]
    """Token ids in the writer's vocabulary."""
    text: str
    logprobs: list[float]
    """Log-probability of each token under the writer, in nats."""
    finish_reason: str
    """Why generation ended: `separator`, `end`, `stop`, `length` or `context`."""
    computed_tokens: int
    """Tokens computed for the step: those of the prefix that were not cached, and its own."""
    cached_tokens: int
    """Tokens of the prefix found in the KV cache."""
    accepted_draft_tokens: int
    """Tokens of the draft's step that the target verified and accepted."""
    seconds: float
    """Seconds from the request to the complete step."""


class VerifiedTokens(TypedDict):
    """The beginning of the target's step, from a forward that verified the draft's step."""

    ids: list[int]
    """Accepted draft tokens and the target's own next token, in the target's vocabulary."""
    logprobs: list[float]
    """Log-probability of each token under the target, in nats."""
    accepted_draft_tokens: int
    finish_reason: str
    """`verified` if the step is incomplete, otherwise as in `PendingStep`."""


class RouteDecision(TypedDict):
    """What the policy, or a human, decided about the draft's step."""

    score: float | None
    escalate: bool
    needs_approval: bool
    """A human is to be asked before the decision takes effect."""
    policy_state: list[float]
    """Numbers that the policy keeps for later steps."""
    computed_tokens: dict[str, int]
    """Tokens computed to score the step, by role: `router` or `target`."""
    seconds: float
    invalid_call: str | None
    """Why the step's tool call is invalid, if that alone escalates the step."""
    verified: NotRequired[VerifiedTokens | None]
    """Beginning of the target's step, if the policy requested a `DraftVerification`."""


class StepRecord(TypedDict):
    """A step of the answer."""

    writer: StepWriter
    text: str
    ids: list[int]
    """Token ids in the writer's vocabulary."""
    score: float | None
    policy_state: list[float]
    """Numbers that the policy kept when it scored the step."""
    seconds: float
    """Seconds of all models on this step."""
    writer_seconds: float
    """Seconds of its writer alone."""
    discarded_tokens: int
    """Tokens of the other model's step, if that was discarded."""
    computed_tokens: dict[str, int]
    """Tokens computed for this step, by role."""
    cached_tokens: int
    """Tokens of the prefix that the writer found in its KV cache."""
    accepted_draft_tokens: int
    """Tokens of a target step accepted from the draft's step instead of being decoded."""
    logprobs: list[float]
    """Log-probability of each token, if requested."""


def _append(steps: list[StepRecord], batches: Sequence[list[StepRecord]]) -> list[StepRecord]:
    return [*steps, *(step for batch in batches for step in batch)]


class MessagesInput(TypedDict):
    """Input of a run."""

    messages: Annotated[list[AnyMessage], add_messages]


class ArbitrageState(TypedDict, total=False):
    """Everything a run knows between two nodes."""

    version: int
    """`STATE_VERSION` of the package that opened the answer."""
    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation. The answer is appended when it is complete."""
    question_id: str | None
    """Id of the message being answered. A different last message begins a new answer."""
    prompts: dict[str, list[int]]
    """Token ids of the conversation for each model, by its own chat template."""
    models: dict[str, ModelIdentity]
    """The models that write the answer. Other models refuse to continue it unless allowed to."""
    constraints: OutputConstraints
    """Tools that may be called and grammars that the answer must follow."""
    # A delta channel's checkpoints hold only what a node adds, not all steps so far.
    steps: Annotated[list[StepRecord], DeltaChannel(_append)]
    """The steps of the answer so far."""
    draft_step: PendingStep | None
    target_step: PendingStep | None
    decision: RouteDecision | None
    next_node: str | None
    """Successor of the nodes that choose it: `prepare`, `draft` and `commit`."""
    seed: int
    """Seed of this answer; drawn when the answer begins if none was given."""
    finish_reason: str | None
    """Set with the last step; None while the answer is in progress."""
