"""What the loop should cost at each escalation rate: arithmetic on measured costs, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RATES", "Forecast", "ReadCost"]

RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Escalation rates of the table."""


@dataclass(frozen=True)
class ReadCost:
    """Seconds of a forward over n new tokens behind a cached prefix: base + slope × n."""

    base: float
    slope: float

    def of(self, tokens: float) -> float:
        """Seconds of one forward."""
        return self.base + self.slope * tokens

    @classmethod
    def through(cls, short: tuple[int, float], long: tuple[int, float]) -> ReadCost:
        """The line through two measurements, (tokens, seconds) each."""
        (n, few), (m, many) = short, long
        slope = max(0.0, (many - few) / (m - n))
        return cls(max(0.0, few - slope * n), slope)


@dataclass(frozen=True)
class Forecast:
    """Costs at batch 1, and what follows from them.

    A step of the loop, at escalation rate e, with steps of S tokens by the draft:

        S × draft_token + router + graph + e × (target_read(S / e) + decoded × target_token
                                                + what the draft then reads)

    for of the S / e tokens that the target has not seen at an escalation, the last S are the
    draft's step, which it verifies in the same forward. Of its own step it then decodes `decoded`
    tokens one by one. The target alone takes target_step × target_token + graph.
    """

    draft_token: float
    """Seconds of a token that the draft writes."""
    target_token: float
    router: float
    """Seconds in which the policy judges a step."""
    graph: float
    """Seconds of a step's cycle through the graph, without models."""
    draft_read: ReadCost
    target_read: ReadCost
    draft_step: float
    """Tokens of a step of the draft."""
    target_step: float
    """Tokens of a step of the target."""
    decoded: float
    """Tokens that the target decodes of an escalated step, of which it keeps the rest."""
    draft_prompt: float = 0.0
    """Seconds in which the draft reads a question."""
    target_prompt: float = 0.0
    router_prompt: float = 0.0
    steps: float = 1.0
    """Steps of an answer."""

    @property
    def drafted(self) -> float:
        """Seconds of a step that the draft writes."""
        return self.draft_step * self.draft_token

    @property
    def alone(self) -> float:
        """Seconds of a step that the target writes alone, as target-only does."""
        return self.target_step * self.target_token

    @property
    def paper(self) -> float:
        """The paper's bound on the acceptance rate: (c_draft + c_router) / c_target of a step."""
        return (self.drafted + self.router) / self.alone

    def escalation(self, rate: float, *, keeps: bool = True) -> float:
        """Seconds that an escalation costs when such a part of the steps is escalated.

        Args:
            rate: In (0, 1].
            keeps: Whether the target keeps of the draft's step what it did in the measurement;
                False for nothing, the worst that verification can do.
        """
        decoded = self.decoded if keeps else self.target_step - 1  # one comes with the reading
        behind = self.draft_read.of(self.target_step) - self.draft_token
        return (
            self.target_read.of(self.draft_step / rate)
            + decoded * self.target_token
            + max(0.0, behind)
        )

    def step(self, rate: float, *, keeps: bool = True) -> float:
        """Seconds of a step of the loop."""
        escalated = rate * self.escalation(rate, keeps=keeps) if rate else 0.0
        return self.drafted + self.router + self.graph + escalated

    def question(self, rate: float, *, keeps: bool = True) -> float:
        """Seconds of a question by the loop."""
        prompts = self.draft_prompt + self.router_prompt + (self.target_prompt if rate else 0.0)
        return prompts + self.steps * self.step(rate, keeps=keeps)

    @property
    def question_alone(self) -> float:
        """Seconds of a question by the target alone."""
        return self.target_prompt + self.steps * (self.alone + self.graph)

    def speed_up(self, rate: float, *, keeps: bool = True) -> float:
        """How many times as fast as the target alone a question is."""
        return self.question_alone / self.question(rate, keeps=keeps)

    def break_even(self, *, keeps: bool = True) -> float | None:
        """The acceptance rate above which the loop pays; None where it never does.

        0 where it pays even with every step escalated.
        """
        if self.speed_up(0, keeps=keeps) <= 1:
            return None
        low, high = 1e-6, 1.0  # the loop pays at `low`, as far as the question's prompt allows
        if self.speed_up(high, keeps=keeps) >= 1:
            return 0.0
        if self.speed_up(low, keeps=keeps) <= 1:
            return 1.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (middle, high) if self.speed_up(middle, keeps=keeps) > 1 else (low, middle)
        return 1 - low

    def parts(self, rate: float) -> dict[str, float]:
        """Seconds of a step of the loop, by what they are spent on."""
        return {
            "draft": self.drafted,
            "router": self.router,
            "graph": self.graph,
            "target": rate * self.escalation(rate) if rate else 0.0,
        }
