"""Forecast the time of the loop at each escalation rate from measured costs.

This module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RATES", "Forecast", "ReadCost"]

RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Escalation rates of the forecast table."""


@dataclass(frozen=True)
class ReadCost:
    """Seconds of a forward over n new tokens after a cached prefix: base + slope × n."""

    base: float
    """Seconds per forward."""
    slope: float
    """Seconds per token."""

    def of(self, tokens: float) -> float:
        """Compute the seconds of a forward over `tokens` new tokens."""
        return self.base + self.slope * tokens

    @classmethod
    def through(cls, short: tuple[int, float], long: tuple[int, float]) -> ReadCost:
        """Fit the line through two measurements, each (tokens, seconds)."""
        (n, short_seconds), (m, long_seconds) = short, long
        slope = max(0.0, (long_seconds - short_seconds) / (m - n))
        return cls(max(0.0, short_seconds - slope * n), slope)


@dataclass(frozen=True)
class Forecast:
    """Costs measured at batch size 1, and the times of the loop that they imply.

    If draft steps have S tokens, a step of the loop at escalation rate e takes on average:

        S × draft_token + router + graph
            + e × (target_read(S / e) + decoded × target_token + draft_catch_up)

    An escalation, the term in parentheses, has three parts:

    - The target computes the tokens written since the previous escalation. One escalation occurs
      every 1 / e steps, so there are S / e tokens on average, including the draft's step to
      verify. One forward computes all of them.
    - The target decodes `decoded` tokens one by one to complete its step.
    - The draft computes the target's step, which takes the additional time `draft_catch_up`.

    If the policy makes the target read every step, that time is part of `router`. An escalation
    then only computes the draft's step to verify it, or nothing if scoring has verified it.

    A step of the target alone takes target_step × target_token + graph.
    """

    draft_token: float
    """Seconds per token decoded by the draft."""
    target_token: float
    """Seconds per token decoded by the target."""
    router: float
    """Seconds per decision of the policy."""
    graph: float
    """Seconds per step that the graph takes in addition to the models."""
    draft_read: ReadCost
    """Cost of a forward of the draft over new tokens."""
    target_read: ReadCost
    """Cost of a forward of the target over new tokens."""
    draft_step: float
    """Mean number of tokens of a draft step."""
    target_step: float
    """Mean number of tokens of a target step."""
    decoded: float
    """Mean number of tokens that the target decodes in an escalated step, after verification."""
    draft_prompt: float = 0.0
    """Seconds in which the draft prefills a question."""
    target_prompt: float = 0.0
    """Seconds in which the target prefills a question."""
    router_prompt: float = 0.0
    """Seconds in which the router prefills a question."""
    steps: float = 1.0
    """Mean number of steps per answer."""
    target_scores: bool = False
    """True if the target reads every step to score it."""
    target_verifies: bool = False
    """True if the forward that scores a step also verifies it."""

    @property
    def drafted(self) -> float:
        """Seconds in which the draft decodes a step."""
        return self.draft_step * self.draft_token

    @property
    def alone(self) -> float:
        """Seconds in which the target decodes a step without the draft."""
        return self.target_step * self.target_token

    @property
    def paper(self) -> float:
        """The paper's lower bound on the acceptance rate: (c_draft + c_router) / c_target."""
        return (self.drafted + self.router) / self.alone

    def escalation(self, rate: float, *, verified: bool = True) -> float:
        """Compute the seconds of one escalation.

        Args:
            rate: Escalation rate, in (0, 1].
            verified: True assumes that the target accepts as many draft tokens as measured. False
                assumes the worst case, in which the target accepts no draft token.
        """
        # Verification yields one token even if the target accepts no draft token.
        decoded = self.decoded if verified else self.target_step - 1
        # The draft's forward over the target's step also yields the first token of the next draft
        # step, whose time is already part of `drafted`.
        draft_catch_up = self.draft_read.of(self.target_step) - self.draft_token
        if self.target_verifies:
            read = 0.0
        elif self.target_scores:
            read = self.target_read.of(self.draft_step)
        else:
            read = self.target_read.of(self.draft_step / rate)
        return read + decoded * self.target_token + max(0.0, draft_catch_up)

    def step(self, rate: float, *, verified: bool = True) -> float:
        """Compute the mean seconds per step of the loop. For the arguments, see `escalation`."""
        escalated = rate * self.escalation(rate, verified=verified) if rate else 0.0
        return self.drafted + self.router + self.graph + escalated

    def question(self, rate: float, *, verified: bool = True) -> float:
        """Compute the mean seconds that the loop takes per question."""
        prompts = self.draft_prompt + self.router_prompt
        if rate or self.target_scores:
            prompts += self.target_prompt
        return prompts + self.steps * self.step(rate, verified=verified)

    @property
    def question_alone(self) -> float:
        """Mean seconds that the target alone takes per question."""
        return self.target_prompt + self.steps * (self.alone + self.graph)

    def speed_up(self, rate: float, *, verified: bool = True) -> float:
        """Compute the speed-up of the loop over the target alone."""
        return self.question_alone / self.question(rate, verified=verified)

    def break_even(self, *, verified: bool = True) -> float | None:
        """Compute the acceptance rate above which the loop is faster than the target alone.

        The result is 0 if the loop is faster even when it escalates every step, and None if the
        loop is never faster.
        """
        if self.speed_up(0, verified=verified) <= 1:
            return None
        # The search starts just above rate 0, because the target prefills the question only if
        # there are escalations.
        low, high = 1e-6, 1.0
        if self.speed_up(high, verified=verified) >= 1:
            return 0.0
        if self.speed_up(low, verified=verified) <= 1:
            return 1.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            faster = self.speed_up(middle, verified=verified) > 1
            low, high = (middle, high) if faster else (low, middle)
        return 1 - low

    def parts(self, rate: float) -> dict[str, float]:
        """Compute the mean seconds that each part of the loop contributes to a step."""
        return {
            "draft": self.drafted,
            "router": self.router,
            "graph": self.graph,
            "target": rate * self.escalation(rate) if rate else 0.0,
        }
