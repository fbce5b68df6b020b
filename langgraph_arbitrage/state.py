"""The state of a run: plain, serializable data only.

It holds no tensors, no dataclasses and no pydantic objects other than messages, so that any
checkpointer can store it and strict msgpack can load it. KV caches are not part of the state: the
engine finds cached prefixes by their token ids.
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
"""Writer of a step. A human's step has token ids of the target's vocabulary."""


class ModelIdentity(TypedDict):
    """Identifies a model."""

    path: str
    """Local folder or hub id."""
    digest: str
    """Digest of its files, which distinguishes models of the same name. Empty if not local."""


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
    """Number of tokens computed for the step: uncached tokens of the prefix, and its own."""
    cached_tokens: int
    """Number of tokens of the prefix found in the KV cache."""
    accepted_draft_tokens: int
    """Number of tokens of the draft's step that the target verified and accepted."""
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
    """Decision of the policy, or of a human, about the draft's step."""

    score: float | None
    escalate: bool
    needs_approval: bool
    """Whether a human must approve before the decision takes effect."""
    policy_state: list[float]
    """Numbers that the policy stores for later steps."""
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
    """Numbers that the policy stored when it scored the step."""
    seconds: float
    """Seconds that all models spent on this step."""
    writer_seconds: float
    """Seconds that its writer spent on it."""
    discarded_tokens: int
    """Number of tokens of the other model's step, if that was discarded."""
    computed_tokens: dict[str, int]
    """Tokens computed for this step, by role."""
    cached_tokens: int
    """Number of tokens of the prefix that the writer found in its KV cache."""
    accepted_draft_tokens: int
    """Number of tokens of a target step that were accepted from the draft's step."""
    logprobs: list[float]
    """Log-probability of each token, if requested."""


def _append(steps: list[StepRecord], batches: Sequence[list[StepRecord]]) -> list[StepRecord]:
    return [*steps, *(step for batch in batches for step in batch)]


class MessagesInput(TypedDict):
    """Input of a run."""

    messages: Annotated[list[AnyMessage], add_messages]


class ArbitrageState(TypedDict, total=False):
    """The state between two nodes."""

    version: int
    """`STATE_VERSION` of the package that began the answer."""
    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation. The answer is appended when it is complete."""
    question_id: str | None
    """Id of the message being answered. A different last message begins a new answer."""
    prompts: dict[str, list[int]]
    """Token ids of the conversation for each model, by its own chat template."""
    models: dict[str, ModelIdentity]
    """The models that write the answer. By default, other models refuse to continue it."""
    constraints: OutputConstraints
    """Tools that may be called and grammars that the answer must follow."""
    # A delta channel stores only the added steps in each checkpoint.
    steps: Annotated[list[StepRecord], DeltaChannel(_append)]
    """The steps of the answer so far."""
    draft_step: PendingStep | None
    target_step: PendingStep | None
    decision: RouteDecision | None
    next_node: str | None
    """Successor of the nodes that choose it: `prepare`, `draft` and `commit`."""
    seed: int
    """Seed of this answer. Drawn when the answer begins, unless the settings contain one."""
    finish_reason: str | None
    """Set with the last step; None while the answer is in progress."""
