"""What is in force for a run: policy, sampling and limits, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langgraph_arbitrage import embedded
from langgraph_arbitrage.approval import check_approval
from langgraph_arbitrage.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.field_types import number, policy_of, texts
from langgraph_arbitrage.policies import (
    Budget,
    DraftConfidence,
    EscalateRepeats,
    FirstSteps,
    LearnedRouter,
    Policy,
)

if TYPE_CHECKING:
    from langgraph_arbitrage.settings import ArbitrageSettings

__all__ = ["Limits", "check_limits", "default_policy"]

_T = TypeVar("_T")


def default_policy(draft: str, target: str) -> Policy:
    """The embedded router for the embedded pair, the only one that it knows; else DraftConfidence.

    Most pairs have no trained router.
    """
    is_embedded = (draft, target) == (embedded.DRAFT, embedded.TARGET)
    return _embedded_router() if is_embedded else DraftConfidence()


@cache
def _embedded_router() -> LearnedRouter:
    return LearnedRouter("embedded:router")


_values_of_limits = attrgetter("router", "draft", "target", *Context.OVERRIDES)


@dataclass(frozen=True)
class Limits:
    """Policy, sampling and limits in force for one run: the settings, overridden by its context."""

    router: Policy
    threshold: float | str | None
    first_steps: int
    escalate_repeats: bool
    max_target_share: float
    max_tokens: int
    max_steps: int
    max_step_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    timeout: float | None
    max_target_tokens: int | None
    max_seconds: float | None
    at_limit: Literal["end", "draft"]
    approve: str | None
    max_thinking_tokens: int | None
    logprobs: bool

    @staticmethod
    def values(settings: ArbitrageSettings) -> tuple[Any, ...]:
        """The values of the settings that make their limits."""
        values: tuple[Any, ...] = _values_of_limits(settings)
        return values

    @classmethod
    def of(cls, settings: ArbitrageSettings) -> Limits:
        """The settings' own."""
        router = policy_of(settings.router)
        if router is None:
            router = default_policy(settings.draft, settings.target)
        return cls(router, **{name: getattr(settings, name) for name in Context.OVERRIDES})

    @cached_property
    def policy(self) -> Policy:
        """The router with the threshold in force, and the options around it.

        The budget is the outermost: it has the last word.

        Raises:
            SettingsError: A value is outside its range.
        """
        policy = self.router
        if self.threshold is not None:
            policy = policy.with_threshold(number(self.threshold))
        if self.escalate_repeats:
            policy = EscalateRepeats(policy)
        if self.first_steps:
            policy = FirstSteps(policy, self.first_steps)
        if self.max_target_share != 1:
            policy = Budget(policy, self.max_target_share)
        return policy

    def overridden(self, context: Context | None) -> Limits:
        """These limits with what the context sets.

        Raises:
            SettingsError: A value is outside its range.
        """
        if context is None:
            return self
        given = {
            name: value
            for name in Context.OVERRIDES
            if (value := getattr(context, name, None)) is not None
        }
        if not given:
            return self
        if "stop" in given:
            given["stop"] = texts(given["stop"])
        limits = check_limits(replace(self, **given))
        _ = limits.policy  # a threshold outside the policy's range fails here
        return limits


def check_limits(limits: _T) -> _T:
    """Raise `SettingsError` where a limit or a sampling setting is outside its range."""
    for name in ("max_tokens", "max_steps", "max_step_tokens", "max_thinking_tokens"):
        value = getattr(limits, name)
        if value is None and name == "max_thinking_tokens":
            continue
        if not isinstance(value, int) or value < 1:
            raise SettingsError(f"{name} must be at least 1, not {value}")
    for name in ("max_target_tokens", "max_seconds"):
        value = getattr(limits, name)
        if value is not None and not value > 0:
            raise SettingsError(f"{name} must be above 0, or None for no limit, not {value}")
    if limits.at_limit not in ("end", "draft"):  # type: ignore[attr-defined]
        raise SettingsError(f"at_limit must be 'end' or 'draft', not {limits.at_limit!r}")  # type: ignore[attr-defined]
    check_approval(limits)
    temperature, top_p, top_k, stop, timeout = (
        getattr(limits, n) for n in ("temperature", "top_p", "top_k", "stop", "timeout")
    )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise SettingsError(f"temperature must be 0 or more, not {temperature}")
    if not 0 < top_p <= 1:
        raise SettingsError(f"top_p must be above 0 and at most 1, not {top_p}")
    if top_k < 0:
        raise SettingsError(f"top_k must be 0 (for all tokens) or more, not {top_k}")
    first = limits.first_steps  # type: ignore[attr-defined]
    if not isinstance(first, int) or first < 0:
        raise SettingsError(f"first_steps must be a whole number, 0 or more, not {first!r}")
    share = limits.max_target_share  # type: ignore[attr-defined]
    if not 0 <= share <= 1:
        raise SettingsError(f"max_target_share must be a number from 0 to 1, not {share}")
    if timeout is not None and not timeout > 0:
        raise SettingsError(f"timeout must be above 0 seconds, or None for no limit, not {timeout}")
    if not all(stop):
        raise SettingsError(f"a stop string must not be empty: {stop!r}")
    return limits
