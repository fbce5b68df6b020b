"""All settings of a chat model or graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from langgraph_arbitrage import embedded
from langgraph_arbitrage.config.base import CheckedSettings, Flag
from langgraph_arbitrage.config.run_options import POLICY_OPTIONS, RunOptions
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.types import ModelName, Router, Texts
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.utils.escapes import unescape

__all__ = ["ArbitrageSettings"]


def _read_file(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _read_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("it must be a JSON object, such as {}")
    return found


class ModelSettings(CheckedSettings):
    """Which models run, and how."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    draft: Annotated[ModelName, Flag("models", "MODEL")] = embedded.DRAFT
    """Small model that drafts each step: a local folder or a hub id."""
    target: Annotated[ModelName, Flag("models", "MODEL")] = embedded.TARGET
    """Large model that rewrites escalated steps: a local folder, a hub id, or a model on an
    OpenAI-compatible server, openai:http://host:port/v1#model (extra `remote`)."""
    router: Router | None = None
    """Policy that decides which steps are escalated, or the checkpoint of a trained router.
    Default: the embedded router for the embedded pair, DraftConfidence for a target on a server,
    else TargetLikelihood."""
    separator: Annotated[
        Texts,
        Flag("sampling", "TEXT", unescape, " Escapes such as \\n are understood.", repeat=True),
    ] = ("\n\n",)
    """Text that ends a step. Several are allowed."""
    generation_config: Annotated[Literal["auto", "ignore"], Flag("models")] = "auto"
    """What the checkpoint's generation_config.json is used for. auto: defaults for sampling and
    max_tokens, and penalties and forbidden tokens in any case. ignore: its end tokens alone."""
    device: Annotated[str, Flag("models")] = "auto"
    """Device of the models: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps."""
    dtype: Annotated[str, Flag("models")] = "auto"
    """Precision: auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16."""
    draft_revision: str | None = None
    """Branch, tag or commit of the draft on the hub."""
    target_revision: str | None = None
    """Branch, tag or commit of the target on the hub."""
    chat_template: Annotated[str | None, Flag("models", "FILE", _read_file)] = None
    """Jinja chat template that replaces the templates of both models."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint. Enable it only for checkpoints that you have read."""
    max_slots: int = 64
    """Maximum answers that a model works on at a time. Further answers wait."""
    max_queue: int | None = None
    """Maximum queue length of a model. Further requests raise EngineBusyError; answers in progress
    never do. Default: unlimited."""
    batch_invariant: Annotated[bool, Flag("service")] = False
    """Run one sequence at a time, so that an answer never depends on other requests. Slower."""
    engine: Annotated[Literal["auto", "eager", "plain"], Flag("models")] = "auto"
    """How models run. auto: in batches if those agree with a plain forward, with packed weights on
    a CPU. eager: the same without packed weights. plain: one sequence at a time."""
    cuda_graphs: Annotated[bool, Flag("models")] = False
    """Decode with CUDA graphs on a GPU. Off by default because no GPU has run them yet. The first
    replay of each graph is compared with an eager forward."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of transformers' from_pretrained, for both models."""
    draft_kwargs: Annotated[
        dict[str, Any],
        Flag(
            "models",
            "JSON",
            _read_object,
            """ Example: '{"quantization_config": {"load_in_4bit": true}}'.""",
        ),
    ] = Field(default_factory=dict)
    """Arguments of from_pretrained for the draft alone. They override model_kwargs."""
    target_kwargs: Annotated[
        dict[str, Any],
        Flag("models", "JSON", _read_object, """ Example: '{"device_map": "auto"}'."""),
    ] = Field(default_factory=dict)
    """Arguments of from_pretrained for the target alone. They override model_kwargs."""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        if not self.separator or not all(self.separator):
            raise SettingsError(
                f"separator must be one or more non-empty strings, not {self.separator!r}; the "
                "usual one is a blank line, '\\n\\n'"
            )
        if self.max_slots < 1:
            raise SettingsError(f"max_slots must be at least 1, not {self.max_slots}")
        if self.max_queue is not None and self.max_queue < 0:
            raise SettingsError(f"max_queue must be at least 0, not {self.max_queue}")
        return self


class ArbitrageSettings(ModelSettings, RunOptions):
    """Models, policy, limits and sampling: the same for chat model, graph and command line."""

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        if self.router is not None or self.threshold is not None or self.approve is not None:
            run = RunSettings.of(self)
            _ = run.policy  # raises if the threshold is outside the policy's range
            run.check_approval()
        return self

    @property
    def policy(self) -> Policy:
        """The policy with its threshold and options applied."""
        return RunSettings.of(self).policy

    @property
    def given(self) -> dict[str, Any]:
        """Return the settings that were passed, to construct an equal object in another process."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def under(self, policy: Policy) -> Self:
        """Return a copy with another policy and without limits on the target.

        Threshold, policy options, target budget and approval return to their defaults.
        """
        reset = ("threshold", *POLICY_OPTIONS, "max_target_tokens", "approve")
        fields = type(self).model_fields
        return self.model_copy(
            update={"router": policy} | {name: fields[name].default for name in reset}
        )
