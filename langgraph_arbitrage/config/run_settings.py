"""The options in force for one run: the settings, overridden by the run's context."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import ConfigDict, InstanceOf

from langgraph_arbitrage import embedded
from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.config.run_options import RunOptions
from langgraph_arbitrage.config.types import to_policy
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import (
    Budget,
    DraftConfidence,
    EscalateRepeats,
    FirstSteps,
    LearnedRouter,
    Policy,
    TargetLikelihood,
    WhileThinking,
)
from langgraph_arbitrage.remote.address import parse_address

if TYPE_CHECKING:
    from langgraph_arbitrage.config.settings import ArbitrageSettings

__all__ = ["RunSettings", "default_policy"]


def default_policy(draft: str, target: str) -> Policy:
    """Return the policy of a pair for which none is set.

    The embedded pair has a router that was trained for it. Other pairs use the target's likelihood
    of the draft's steps, or the draft's confidence if the target runs on a server.
    """
    if (draft, target) == (embedded.DRAFT, embedded.TARGET):
        return _embedded_router()
    return DraftConfidence() if parse_address(target) else TargetLikelihood()


@cache
def _embedded_router() -> LearnedRouter:
    return LearnedRouter("embedded:router")


class RunSettings(RunOptions):
    """Policy, limits and sampling of one run."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    router: InstanceOf[Policy]
    """The policy, before threshold and options are applied."""

    @classmethod
    def of(cls, settings: ArbitrageSettings) -> Self:
        """The options of a chat model or graph.

        Raises:
            SettingsError: An option is outside its range.
        """
        router = to_policy(settings.router)
        if router is None:
            router = default_policy(settings.draft, settings.target)
        return cls(router=router, **run_options(settings))

    def overridden(self, context: Context | None) -> RunSettings:
        """These settings with the overrides of a context.

        Raises:
            SettingsError: An option is outside its range.
        """
        if context is None or not context.overrides:
            return self
        cached: tuple[RunSettings, RunSettings] | None = context._in_force
        if cached is None or cached[0] is not self:
            options = run_options(self) | context.overrides
            found = RunSettings(router=self.router, **options)
            _ = found.policy  # raises if the threshold is outside the policy's range
            found.check_approval()
            context._in_force = cached = self, found
        return cached[1]

    @cached_property
    def policy(self) -> Policy:
        """The router with its threshold and the options around it.

        The budget is outermost: it has the last word.

        Raises:
            SettingsError: The threshold is outside the policy's range.
        """
        policy: Policy = self.router
        if self.threshold is not None:
            policy = policy.with_threshold(self.threshold)
        if self.thinking_threshold is not None:
            thinking = policy.with_threshold(self.thinking_threshold)
            policy = WhileThinking(policy, thinking=thinking)
        if self.escalate_repeats:
            policy = EscalateRepeats(policy)
        if self.first_steps:
            policy = FirstSteps(policy, self.first_steps)
        if self.max_target_share != 1:
            policy = Budget(policy, self.max_target_share)
        return policy

    def check_approval(self) -> None:
        """Raise `SettingsError` if the approval rule does not fit the other settings."""
        if self.approve is None:
            return
        if self.approve == "budget" and self.max_target_tokens is None:
            raise SettingsError(
                "approve='budget' asks once max_target_tokens are spent: set max_target_tokens too"
            )
        if self.policy.needs_target_step:
            raise SettingsError(
                f"approve={self.approve!r} asks before the target writes, but "
                f"{type(self.policy).__name__} decides after it has written. Use another policy, "
                "or no approval"
            )


def run_options(settings: RunOptions) -> dict[str, Any]:
    """The values of the run options."""
    return {name: getattr(settings, name) for name in RunOptions.model_fields}
