"""The state of a run: plain, serializable data, and nothing else.

No tensors, no dataclasses, no pydantic objects but the messages: any checkpointer stores it, and
strict msgpack loads it. Keys and values of the models are never state; the engine finds them
again by the token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.graph.message import add_messages

from langgraph_arbitrage.tools.form import Demands

__all__ = [
    "ArbitrageState",
    "MessagesInput",
    "ModelIdentity",
    "PendingStep",
    "StepRecord",
    "StepWriter",
    "Verdict",
]

StepWriter = Literal["draft", "target", "human"]
"""Who wrote a step. A human's step has its ids in the target's vocabulary."""


class ModelIdentity(TypedDict):
    """Which model it is."""

    path: str
    """Its folder or hub id."""
    digest: str
    """Of its files, so that another model of the same name is told apart; empty while they are
    not on this machine."""


class PendingStep(TypedDict):
    """A step that is written and not yet part of the answer."""

    writer: StepWriter
    ids: list[int]
    """Token ids in the vocabulary of the model that wrote it."""
    text: str
    logprobs: list[float]
    """Log-probability of each token under the model that wrote it, in nats."""
    finish: str
    """Why the step ended: `separator`, `end`, `stop`, `length`, `context`."""
    fed: int
    """Tokens fed through the model for it."""
    cached: int
    """Tokens of the prefix that were found in the cache."""
    kept: int
    """Tokens of the draft's step that the target found to be what it writes itself."""
    seconds: float
    """From the request to the step."""


class Verdict(TypedDict):
    """What the policy decided on the draft's step."""

    score: float | None
    escalate: bool
    ask: bool
    """Whether a human is to be asked."""
    memory: list[float]
    """What the policy noted for the steps that follow."""
    fed: dict[str, int]
    """Tokens fed for it through the `router`, or through the `target` that graded the step."""
    seconds: float
    fault: str | None
    """Why the step's tool call cannot be made, where that alone escalates it."""


class StepRecord(TypedDict):
    """A step of the answer."""

    writer: StepWriter
    text: str
    ids: list[int]
    """Token ids in the writer's vocabulary."""
    score: float | None
    memory: list[float]
    """What the policy noted when it judged the step."""
    seconds: float
    """Time of all models on this step."""
    writer_seconds: float
    """Time of its writer alone."""
    discarded: int
    """Tokens of the other model's step, if one was written for nothing."""
    forwarded: dict[str, int]
    """Tokens fed through each model for this step."""
    cached: int
    """Tokens of the prefix that the writer found in its cache."""
    kept: int
    """Tokens of a target's step that it kept of the draft's, and did not decode."""
    logprobs: list[float]
    """Log-probability of each token, where they are asked for."""


def _appended(steps: list[StepRecord], batches: Sequence[list[StepRecord]]) -> list[StepRecord]:
    return [*steps, *(step for batch in batches for step in batch)]


class MessagesInput(TypedDict):
    """What a run starts from."""

    messages: Annotated[list[AnyMessage], add_messages]


class ArbitrageState(TypedDict, total=False):
    """Everything that a run knows between two nodes."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation; the answer is appended at the end."""
    answers: str | None
    """Id of the message that is being answered: with another one a new answer begins."""
    prompts: dict[str, list[int]]
    """Token ids of the conversation for each model, through its own chat template."""
    models: dict[str, ModelIdentity]
    """The models that the answer is written by: others refuse to go on with it unless told to."""
    demands: Demands
    """What the answer may be: the tools that it may call, the grammar that it is written under."""
    # Checkpoints of a delta channel hold what a step adds, not all steps so far.
    steps: Annotated[list[StepRecord], DeltaChannel(_appended)]
    """The answer so far, step by step."""
    draft_step: PendingStep | None
    target_step: PendingStep | None
    verdict: Verdict | None
    seed: int
    """Seed of this answer; drawn at its start where none was given."""
    finish_reason: str | None
    """Set with the last step; None while the answer is being written."""
