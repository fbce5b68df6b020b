"""What can be set, checked when it is set. The texts under the fields are the CLI's help too."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from langgraph_arbitrage import embedded
from langgraph_arbitrage.checked_settings import CheckedSettings
from langgraph_arbitrage.context import OPTIONS
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.field_types import ModelName, Router, Texts, Threshold
from langgraph_arbitrage.limits import Limits, check_limits
from langgraph_arbitrage.policies import Policy

__all__ = ["ArbitrageSettings"]


class ArbitrageSettings(CheckedSettings):
    """Models, policy, sampling and limits: the same for the chat model, the graph and the CLI."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    draft: ModelName = embedded.DRAFT
    """Small model that writes each step first: a local folder or a hub id."""
    target: ModelName = embedded.TARGET
    """Large model that rewrites the steps that are escalated: a local folder, a hub id, or a model
    on an OpenAI-compatible server, openai:http://host:port/v1#model (extra `remote`)."""
    router: Router | None = None
    """Policy that decides which steps are escalated, or the checkpoint of a trained router, which
    then decides; default the embedded router for the embedded pair, else DraftConfidence."""
    threshold: Threshold | None = None
    """Threshold of the policy, in the policy's own range and direction; default the policy's.
    With a calibrated router also rate:R (about this share of the steps is escalated) or loss:E
    (no more is lost against the target alone)."""
    first_steps: int = 0
    """The target writes so many first steps of an answer, without a draft."""
    escalate_repeats: bool = False
    """Escalate a draft's step that repeats an earlier one of the answer: the draft is in a loop."""
    max_target_share: float = 1.0
    """Most steps that the target writes, as a share of the steps; beyond that the draft's are
    accepted."""
    max_tokens: int = Field(default=1024)
    """Most tokens of an answer."""
    max_steps: int = 200
    """Most steps of an answer."""
    max_step_tokens: int = 512
    """Most tokens of one step; a longer one goes on as the next."""
    max_thinking_tokens: int | None = None
    """Most tokens of thinking (`<think>`) before it is closed and the answer begins."""
    max_target_tokens: int | None = None
    """Most tokens that the target writes for an answer, those of discarded steps included; what
    happens then says at_limit. No limit by default."""
    max_seconds: float | None = None
    """Most seconds that models spend on an answer, waiting for a busy model included, lying still
    on a disk or before a human not; a step under way is finished. What happens then says at_limit
    (timeout raises an error instead). No limit by default."""
    at_limit: Literal["end", "draft"] = "end"
    """At max_target_tokens or max_seconds: end the answer as it is, or have the draft finish it
    alone."""
    approve: str | None = None
    """Ask a human, by a LangGraph interrupt: before all "escalations"; at the "budget", that is
    before each escalation once the target has written max_target_tokens; or about each step on
    whose tokens the draft's mean probability is "below:0.8". Needs a checkpointer; off by
    default."""
    temperature: float = 0.0
    """0 takes the most probable token each time; higher is more varied."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens whose probabilities reach this sum."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 for all."""
    seed: int | None = None
    """Seed for sampling: the same seed gives the same answer. Drawn anew where none is given."""
    stop: Texts = ()
    """Strings that end an answer; they are not part of it."""
    timeout: float | None = None
    """Seconds an answer may take, waiting and loading included; then AnswerTimeoutError, and there
    is no answer (max_seconds ends one with what it has)."""
    logprobs: bool = False
    """Report each token's log-probability under the model that wrote it, as response metadata."""
    separator: Texts = ("\n\n",)
    """What ends a step; several are allowed."""
    device: str = "auto"
    """Where the models run: auto (GPU when there is one, else CPU), cpu, cuda, cuda:1, mps."""
    dtype: str = "auto"
    """Precision: auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16."""
    draft_revision: str | None = None
    """Branch, tag or commit of the draft on the hub."""
    target_revision: str | None = None
    """Branch, tag or commit of the target on the hub."""
    chat_template: str | None = None
    """Jinja chat template for a model that brings none of its own."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint. Only for checkpoints that you have read."""
    max_slots: int = 64
    """Most answers that a model works on at a time; more wait."""
    max_queue: int | None = None
    """Most answers that wait for a model; one more gets EngineBusyError. None: all wait."""
    batch_invariant: bool = False
    """Exactly the same answer whatever else is asked: slower, one sequence at a time."""
    engine: Literal["auto", "eager", "plain"] = "auto"
    """How models run. auto: in batches where that agrees with a plain forward, with packed weights
    on a CPU. eager: the same without packed weights. plain: one sequence at a time."""
    cuda_graphs: bool = False
    """Decode by CUDA graphs on a GPU. Off by default: no GPU has run them yet. The first replay of
    each graph is compared with an eager forward."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of transformers' from_pretrained, for both models."""
    draft_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of from_pretrained for the draft alone, over model_kwargs, such as the
    quantization_config that makes a copy of the target its draft."""
    target_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of from_pretrained for the target alone, over model_kwargs, such as a device_map
    that spreads it over several GPUs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_limits(self)
        if not self.separator or not all(self.separator):
            raise SettingsError(
                f"separator must be one or more texts, none of them empty, not {self.separator!r}; "
                "the usual one is a blank line, '\\n\\n'"
            )
        if self.max_slots < 1:
            raise SettingsError(f"max_slots must be at least 1, not {self.max_slots}")
        if self.max_queue is not None and self.max_queue < 0:
            raise SettingsError(f"max_queue must be at least 0, not {self.max_queue}")
        if self.router is not None or self.threshold is not None:
            _ = self.policy  # a threshold outside the policy's range fails here
        return self

    @property
    def policy(self) -> Policy:
        """The policy in force, with threshold and options applied."""
        return Limits.of(self).policy

    @property
    def given(self) -> dict[str, Any]:
        """What was set, to make the same settings or a chat model with them elsewhere."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def under(self, policy: Policy) -> Self:
        """These settings with another policy, alone.

        What says how far the target may go is left out: a threshold, the options around a policy,
        the budget of its tokens, a human's approval.
        """
        alone = ("threshold", *OPTIONS, "max_target_tokens", "approve")
        fields = type(self).model_fields
        return self.model_copy(
            update={"router": policy} | {name: fields[name].default for name in alone}
        )
