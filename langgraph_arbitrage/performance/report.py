"""What was found of a pair: its models, the forecast and how well that held, in one sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from langgraph_arbitrage.performance.forecast import RATES, Forecast

__all__ = ["Bench", "Checked", "RoleReport"]

CLEAR = 1.05  # below, what a measurement says lies within its noise


@dataclass(frozen=True)
class RoleReport:
    """One model: what it could cost, and what it does."""

    model: str
    engine: str
    """`slot` or `plain`."""
    device: str
    dtype: str
    parameters: int
    weights: int
    """Bytes of the weights that a token needs."""
    bandwidth: float
    """Bytes a second that the device reads of so many."""
    operations: float
    """Operations a second that it does in this dtype."""
    token_floor: float | None
    """Seconds below which it cannot decode a token; None for a model that writes none."""
    token: float | None
    """Seconds of a decoded token, measured."""
    read_floor: float
    """Seconds below which it cannot read a step."""
    read: float | None
    """Seconds in which it reads a step behind a cached prefix; None where that is not apart."""
    step_floor: float
    """Seconds below which it cannot do its part of a step: write one, or for a scorer read one."""
    step: float
    """Seconds of its part of a step, measured; a scorer's with what the policy makes of it."""
    batches: dict[int, float]
    """Tokens a second of all sequences together, by their number."""

    @property
    def share(self) -> float:
        """Part of its step that the floor explains; the rest is launches, threads, Python."""
        return self.step_floor / self.step


@dataclass(frozen=True)
class Checked:
    """The forecast against answers that were really given, in mean seconds a question."""

    questions: int
    alone: float
    """By the target alone, measured."""
    alone_forecast: float
    """From the costs, and the steps and tokens of those answers."""
    loop: float
    loop_forecast: float
    rate: float
    """Part of the loop's steps that was escalated."""

    @property
    def speed_up(self) -> float:
        """Measured."""
        return self.alone / self.loop

    @property
    def speed_up_forecast(self) -> float:
        """From the costs."""
        return self.alone_forecast / self.loop_forecast


@dataclass(frozen=True)
class Bench:
    """All that was found of a pair."""

    policy: str
    roles: dict[str, RoleReport]
    forecast: Forecast
    rate: float
    """Part of the steps that the policy escalated in the measurement."""
    steps: int
    """Steps that were measured."""
    agreement: float
    """Part of the draft's step that the target keeps, of those that the policy escalates."""
    check: Checked | None

    @property
    def verdict(self) -> str:
        """Whether the loop pays for this pair, and what would help, in one sentence."""
        f, speed = self.forecast, self.forecast.speed_up(self.rate)
        name, _ = max(f.parts(self.rate).items(), key=lambda part: part[1])
        pace = f"{1e3 * f.question(self.rate):.3g} ms instead of {1e3 * f.question_alone:.3g}"
        at = f"at the {self.rate:.0%} of the steps that {self.policy.partition('(')[0]} escalates"
        if speed > CLEAR:
            told = f"The loop pays for this pair: {at} a question should take {pace}"
            told += f", {speed:.1f} times as fast"
        elif f.speed_up(0) > CLEAR:
            told = f"The loop does not pay {at} ({pace}), and would below an escalation rate of "
            told += f"{1 - (f.break_even() or 0):.0%}"
        else:
            told = "The loop does not pay for this pair: even with no step escalated a question "
            told += f"should take {1e3 * f.question(0):.3g} ms instead of "
            told += f"{1e3 * f.question_alone:.3g}"
        return f"{told}; most of it is {self._hint(name)}."

    def _hint(self, part: str) -> str:
        """What the largest part of a step is, and what lowers it."""
        if part == "graph":
            return "the graph's own cycle, so that longer steps would help (separator)"
        if part == "target":
            return (
                "the target's, so that fewer escalations would help (a higher threshold of ŷ, a "
                "router trained for the pair), or a draft that agrees with it for longer"
            )
        report = self.roles.get(part)
        small = report is not None and report.share < 0.3
        spent = (
            f"of which bytes and operations explain {report.share:.0%}"
            if report is not None
            else "which no model of its own explains"
        )
        if part == "router":
            how = "fewer layers" if small else "a smaller or quantized one"
            return f"the router's, {spent}, so that {how} would help, or draft confidence"
        how = (
            "fewer layers would help, not fewer weights a layer"
            if small
            else "fewer or quantized weights would help (model_kwargs)"
        )
        return f"the draft's, {spent}, so that {how}"

    @property
    def record(self) -> dict[str, Any]:
        """As plain data, for JSON; all times are seconds."""
        f = self.forecast
        return {
            "policy": self.policy,
            "roles": {
                name: asdict(role) | {"floor_share": role.share}
                for name, role in self.roles.items()
            },
            "step_ratio": {
                "draft": f.drafted / f.alone,
                "router": f.router / f.alone,
                "graph": f.graph / f.alone,
            },
            "forecast": asdict(f),
            "acceptance_to_break_even": {
                "verified": f.break_even(),
                "nothing_kept": f.break_even(keeps=False),
                "paper": f.paper,
            },
            "speed_up": {
                str(rate): {
                    "verified": f.speed_up(rate),
                    "nothing_kept": f.speed_up(rate, keeps=False),
                }
                for rate in RATES
            },
            "measured_steps": self.steps,
            "escalation_rate": self.rate,
            "agreement": self.agreement,
            "check": None
            if self.check is None
            else asdict(self.check)
            | {
                "speed_up": self.check.speed_up,
                "speed_up_forecast": self.check.speed_up_forecast,
            },
            "verdict": self.verdict,
        }
