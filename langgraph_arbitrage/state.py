"""The graph's state, which consists of plain, serializable data only.

The state contains no tensors, no dataclasses, and no pydantic objects other than messages. Any
checkpointer can store it, and strict msgpack can load it. KV caches are not part of the state. The
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
"""Version of this schema, stored with each answer. A run that resumes another version raises
`ThreadError`."""

StepWriter = Literal["draft", "target", "human"]
"""Writer of a step. The text of a human's step is encoded with the target's tokenizer."""


class ModelIdentity(TypedDict):
    """The name and the digest of a model."""

    path: str
    """Local folder or hub id."""
    digest: str
    """Digest of the model's files, which distinguishes models with the same path. Empty if the
    files are not on this machine."""


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
    """Number of tokens computed for the step: the uncached tokens of the prefix and the tokens of
    the step."""
    cached_tokens: int
    """Number of tokens of the prefix found in the KV cache."""
    accepted_draft_tokens: int
    """Number of tokens of a target step that were accepted from the draft's step."""
    seconds: float
    """Seconds from the request to the complete step."""


class VerifiedTokens(TypedDict):
    """The beginning of the target's step. The forward that scored the draft's step produced it."""

    ids: list[int]
    """The accepted draft tokens, followed by the target's next token. Ids of the target's
    vocabulary."""
    logprobs: list[float]
    """Log-probability of each token under the target, in nats."""
    accepted_draft_tokens: int
    finish_reason: str
    """`verified` if the target's step is incomplete, otherwise a value of
    `PendingStep.finish_reason`."""


class RouteDecision(TypedDict):
    """The decision of the policy or of a human about the draft's step."""

    score: float | None
    """The policy's score. None if the policy computes no score."""
    escalate: bool
    """Whether the target generates the step again."""
    needs_approval: bool
    """Whether a human must approve before the decision takes effect."""
    policy_state: list[float]
    """Numbers that the policy stores for later steps of the answer."""
    computed_tokens: dict[str, int]
    """Number of tokens computed to score the step, by role (`router` or `target`)."""
    seconds: float
    """Seconds spent on scoring the step."""
    invalid_call: str | None
    """Why the step's tool call is invalid, if that is the only reason to escalate. Otherwise
    None."""
    verified: NotRequired[VerifiedTokens | None]
    """Beginning of the target's step, if the policy requested a `DraftVerification`."""


class StepRecord(TypedDict):
    """A committed step of the answer."""

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
    """Seconds that the writer spent on this step."""
    discarded_tokens: int
    """Number of tokens of the other model's step that was discarded. 0 if no step was discarded."""
    computed_tokens: dict[str, int]
    """Number of tokens computed for this step, by role (`draft`, `target` or `router`)."""
    cached_tokens: int
    """Number of tokens of the prefix that the writer found in its KV cache."""
    accepted_draft_tokens: int
    """Number of tokens of a target step that were accepted from the draft's step."""
    logprobs: list[float]
    """Log-probability of each token under the writer, in nats. Empty unless the setting `logprobs`
    is on."""


def _append(steps: list[StepRecord], batches: Sequence[list[StepRecord]]) -> list[StepRecord]:
    return [*steps, *(step for batch in batches for step in batch)]


class MessagesInput(TypedDict):
    """The input of the graph."""

    messages: Annotated[list[AnyMessage], add_messages]


class ArbitrageState(TypedDict, total=False):
    """The state of the graph."""

    version: int
    """The `STATE_VERSION` of the package version that began the answer."""
    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation. The answer is appended when it is complete."""
    question_id: str | None
    """Id of the message being answered. If the last message has another id, a new answer begins."""
    prompts: dict[str, list[int]]
    """Token ids of the prompt for each role, rendered with the chat template of the role's
    model."""
    models: dict[str, ModelIdentity]
    """The models that began the answer, by role. By default, a run with other models raises
    `OtherModelsError`."""
    constraints: OutputConstraints
    """Tools that the answer may call, and grammars that the answer must match."""
    # With a delta channel, each checkpoint stores only the added steps.
    steps: Annotated[list[StepRecord], DeltaChannel(_append)]
    """The steps of the answer so far."""
    draft_step: PendingStep | None
    """The draft's step that is not committed yet."""
    target_step: PendingStep | None
    """The target's or the human's step that is not committed yet."""
    decision: RouteDecision | None
    """The decision about `draft_step`. None before the step is scored."""
    next_node: str | None
    """The node to run next. Set by the nodes `prepare`, `draft` and `commit`."""
    seed: int
    """Seed of this answer: the setting `seed`. If it is None: a random number, or 0 for greedy
    decoding."""
    finish_reason: str | None
    """Why the answer ended. None while the answer is in progress."""
