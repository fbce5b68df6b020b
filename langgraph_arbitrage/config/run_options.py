"""Options that may differ from run to run, declared once.

`ArbitrageSettings` gives them their values for a chat model or graph, `Context` overrides them for
one run, and `RunSettings` is the result. The command line's options and docs/settings.md are
generated from the same declarations.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from langgraph_arbitrage.config.base import CheckedSettings, Flag
from langgraph_arbitrage.config.types import Texts, Threshold
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies.calibration import read_threshold
from langgraph_arbitrage.prompts.user_text import SpecialTokensInText
from langgraph_arbitrage.utils.text import is_valid_text

__all__ = ["MAX_TOKENS", "POLICY_OPTIONS", "RunOptions", "below_threshold"]

MAX_TOKENS = 1024
"""Default of `max_tokens`."""
RESERVED = {
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "chat_template",
}
"""Chat template variables that the conversation sets, so `chat_template_kwargs` may not."""

POLICY_OPTIONS = ("first_steps", "escalate_repeats", "max_target_share")
"""Options that wrap the policy in another policy."""


class RunOptions(CheckedSettings):
    """Threshold, limits and sampling of a run."""

    threshold: Annotated[Threshold | None, Flag("policy", "X", read_threshold)] = None
    """Threshold of the policy, in the policy's own range and direction. Calibrated routers also
    accept rate:R (escalate about this share of the steps) and loss:E (lose at most E against the
    target alone). Default: the policy's own."""
    thinking_threshold: Annotated[Threshold | None, Flag("policy", "X", read_threshold)] = None
    """Threshold of the policy for steps inside the thinking (`<think>`). Default: the same as for
    other steps."""
    first_steps: Annotated[int, Flag("policy", "K")] = 0
    """Number of steps at the start of an answer that the target writes without a draft."""
    escalate_repeats: Annotated[bool, Flag("policy")] = False
    """Escalate a draft step that repeats an earlier step of the answer."""
    max_target_share: Annotated[float, Flag("policy", "S")] = 1.0
    """Maximum share of the steps that the target writes. Further draft steps are accepted."""
    max_tokens: Annotated[int | None, Flag("limits", "N")] = None
    """Maximum tokens of an answer. Default: 1024, or the checkpoint's max_new_tokens if that is
    smaller."""
    max_steps: Annotated[int, Flag("limits", "N")] = 200
    """Maximum steps of an answer."""
    min_step_tokens: int = 8
    """Minimum tokens of a step. A shorter one, such as a heading, continues with the next lines."""
    max_step_tokens: int = 512
    """Maximum tokens of a step. A longer step continues as the next one."""
    max_thinking_tokens: int | None = None
    """Maximum tokens of thinking (`<think>`) before it is closed. Default: no limit."""
    max_target_tokens: Annotated[int | None, Flag("budgets", "N")] = None
    """Maximum tokens that the target writes for an answer, discarded steps included; see at_limit.
    Default: no limit."""
    max_seconds: Annotated[float | None, Flag("budgets", "S")] = None
    """Maximum seconds of model time for an answer, queueing included; time checkpointed or
    awaiting approval does not count. The current step finishes first; see at_limit. Default: no
    limit."""
    at_limit: Annotated[Literal["end", "draft"], Flag("budgets")] = "end"
    """What happens at max_target_tokens or max_seconds: end the answer, or let the draft finish it
    alone."""
    approve: str | None = None
    """Ask a human through a LangGraph interrupt: before each escalation ("escalations"), before
    each escalation once max_target_tokens are spent ("budget"), or about each step whose tokens
    have a mean draft probability below a value ("below:0.8"). Needs a checkpointer. Default: never
    ask."""
    temperature: Annotated[float | None, Flag("sampling", "T")] = None
    """Sampling temperature; 0 is greedy. Default: the temperature in the target's
    generation_config.json if do_sample is true there, else 0."""
    top_p: Annotated[float | None, Flag("sampling", "P")] = None
    """Sample from the smallest set of tokens whose probabilities add up to this value. Default: the
    checkpoint's, else 1."""
    top_k: Annotated[int | None, Flag("sampling", "K")] = None
    """Sample from this many most probable tokens; 0 means all. Default: the checkpoint's, else
    all."""
    min_p: Annotated[float | None, Flag("sampling", "P")] = None
    """Sample from the tokens with at least this share of the highest probability; 0 means all.
    Default: the checkpoint's, else all."""
    seed: Annotated[int | None, Flag("sampling", "N")] = None
    """Seed for sampling. The same seed gives the same answer. Default: drawn for each answer."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the chat templates of both models, such as {"enable_thinking": False}."""
    draft_chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the draft's chat template alone. They override chat_template_kwargs."""
    target_chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the target's chat template alone. They override chat_template_kwargs."""
    continue_final_message: bool = False
    """Continue the last message, which must be the assistant's, instead of answering it. The answer
    is the continuation alone."""
    special_tokens_in_text: SpecialTokensInText = "escape"
    """Special tokens, such as `<|im_end|>`, in the text of user messages, tool results, tools and
    documents: "escape" reads them as ordinary text, "refuse" raises MessageError, "allow" lets them
    act as special tokens. System and assistant messages may always contain them. Delimiters that
    the tokenizer treats as plain text, such as [INST] of some models, cannot be escaped."""
    stop: Texts = ()
    """Strings that end an answer. They are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids, in the target's vocabulary, that end an answer besides its end tokens."""
    timeout: Annotated[float | None, Flag("service", "SECONDS")] = None
    """Maximum seconds until an answer is complete, loading and queueing included; then
    AnswerTimeoutError is raised. (max_seconds returns the unfinished answer instead.) Default: no
    limit."""
    logprobs: bool = False
    """Report each token's log-probability under the model that wrote it."""

    def template_kwargs(self, role: str) -> dict[str, Any]:
        """Return the chat template variables of the draft or the target."""
        own: dict[str, Any] = getattr(self, f"{role}_chat_template_kwargs")
        return self.chat_template_kwargs | own

    @model_validator(mode="after")
    def _check_run_options(self) -> Self:
        for name in (
            "max_tokens",
            "max_steps",
            "min_step_tokens",
            "max_step_tokens",
            "max_thinking_tokens",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, not {value}")
        for name in ("max_target_tokens", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"{name} must be above 0, or None for no limit, not {value}")
        temperature = self.temperature
        if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
            raise SettingsError(f"temperature must be 0 or more, not {temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k is not None and self.top_k < 0:
            raise SettingsError(f"top_k must be 0 (all tokens) or more, not {self.top_k}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise SettingsError(f"min_p must be a number from 0 to 1, not {self.min_p}")
        if self.first_steps < 0:
            raise SettingsError(f"first_steps must be 0 or more, not {self.first_steps}")
        if not 0 <= self.max_target_share <= 1:
            raise SettingsError(
                f"max_target_share must be a number from 0 to 1, not {self.max_target_share}"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise SettingsError(
                f"timeout must be above 0 seconds, or None for no limit, not {self.timeout}"
            )
        for name in ("", "draft_", "target_"):
            given = getattr(self, f"{name}chat_template_kwargs")
            if reserved := sorted(RESERVED & given.keys()):
                raise SettingsError(
                    f"{name}chat_template_kwargs must not set {', '.join(reserved)}: the "
                    "conversation and its tools set these"
                )
        if not all(token >= 0 for token in self.stop_token_ids):
            raise SettingsError(f"stop_token_ids must be 0 or more, not {self.stop_token_ids}")
        if not all(is_valid_text(text) for text in self.stop):
            raise SettingsError(f"a stop string must be valid UTF-8 text, not {self.stop!r}")
        if not all(self.stop):
            raise SettingsError(f"a stop string must not be empty: {self.stop!r}")
        if self.approve not in (None, "escalations", "budget"):
            below_threshold(self.approve)
        return self


def below_threshold(rule: str) -> float:
    """Probability of an approval rule such as "below:0.8".

    Raises:
        SettingsError: The rule is unknown, or its number is not in (0, 1].
    """
    kind, _, number = rule.partition(":")
    try:
        value = float(number) if kind == "below" else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise SettingsError(
            f"approve must be 'escalations', 'budget' or 'below:P' with a probability P above 0 "
            f"and at most 1, such as 'below:0.8', not {rule!r}"
        )
    return value
