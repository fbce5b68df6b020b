"""Results of a benchmark: measurements of each model, the forecast, its check and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from langgraph_arbitrage.performance.forecast import RATES, Forecast

__all__ = ["Bench", "ForecastCheck", "RoleReport"]

MIN_SPEED_UP = 1.05
"""Speed-up above which the verdict recommends the loop. Smaller speed-ups are within measurement
noise."""


@dataclass(frozen=True)
class RoleReport:
    """Lower bounds and measured times of one model."""

    model: str
    """Checkpoint."""
    engine: str
    """Engine backend: `slot` or `plain`."""
    device: str
    dtype: str
    parameters: int
    """Number of parameters."""
    weights: int
    """Bytes of the weights that a forward reads."""
    bandwidth: float
    """Bytes per second that the device reads from a buffer as large as the weights."""
    operations: float
    """Operations per second of the device in this dtype."""
    token_floor: float | None
    """Lower bound of the seconds per decoded token; None for a scorer."""
    token: float | None
    """Measured seconds per decoded token; None for a scorer."""
    read_floor: float
    """Lower bound of the seconds of a forward over all tokens of a step."""
    read: float | None
    """Measured seconds of a forward over a step after a cached prefix; None if not measured."""
    step_floor: float
    """Lower bound of the seconds per step. A draft or target decodes the step token by token; a
    scorer computes it in one forward."""
    step: float
    """Measured seconds per step. For a scorer, this includes the policy's decision."""
    batches: dict[int, float]
    """Decoded tokens per second, summed over the sequences of a batch, by batch size."""

    @property
    def share(self) -> float:
        """Fraction of the step time that the lower bound explains.

        The remaining time is spent on kernel launches, thread synchronization and Python.
        """
        return self.step_floor / self.step


@dataclass(frozen=True)
class ForecastCheck:
    """Comparison of the forecast with measured answers, in mean seconds per question."""

    questions: int
    """Number of questions."""
    alone: float
    """Measured seconds of the target alone."""
    alone_forecast: float
    """Forecast seconds of the target alone, from the steps and tokens of the same answers."""
    loop: float
    """Measured seconds of the loop."""
    loop_forecast: float
    """Forecast seconds of the loop, from the steps and tokens of the same answers."""
    rate: float
    """Escalation rate of the loop."""

    @property
    def speed_up(self) -> float:
        """Measured speed-up of the loop over the target alone."""
        return self.alone / self.loop

    @property
    def speed_up_forecast(self) -> float:
        """Forecast speed-up of the loop over the target alone."""
        return self.alone_forecast / self.loop_forecast


@dataclass(frozen=True)
class Bench:
    """Results of a benchmark of a pair."""

    policy: str
    """`repr` of the policy."""
    roles: dict[str, RoleReport]
    """Measurements of draft, target and, if the policy uses a scorer, router."""
    forecast: Forecast
    rate: float
    """Measured escalation rate."""
    steps: int
    """Number of measured steps."""
    agreement: float
    """Fraction of the draft tokens that the target accepts in escalated steps; in all steps if none
    were escalated."""
    check: ForecastCheck | None
    """Comparison with measured answers; None if not requested."""

    @property
    def verdict(self) -> str:
        """A sentence on whether the loop pays for this pair and how to reduce its largest cost."""
        f, speed_up = self.forecast, self.forecast.speed_up(self.rate)
        largest, _ = max(f.parts(self.rate).items(), key=lambda part: part[1])
        times = f"{1e3 * f.question(self.rate):.3g} ms instead of {1e3 * f.question_alone:.3g} ms"
        policy = self.policy.partition("(")[0]
        if speed_up > MIN_SPEED_UP:
            text = (
                f"The loop pays for this pair: {policy} escalates {self.rate:.0%} of the steps, "
                f"and a question should take {times} ({speed_up:.1f} times as fast)"
            )
        elif f.speed_up(0) > MIN_SPEED_UP:
            text = (
                f"The loop does not pay for this pair with {self.rate:.0%} of the steps escalated "
                f"by {policy} ({times} per question); it would pay below an escalation rate of "
                f"{1 - (f.break_even() or 0):.0%}"
            )
        else:
            text = (
                "The loop does not pay for this pair: even without escalations a question should "
                f"take {1e3 * f.question(0):.3g} ms instead of {1e3 * f.question_alone:.3g} ms"
            )
        return f"{text}; the largest cost is {self._hint(largest)}."

    def _hint(self, part: str) -> str:
        """Name the largest part of a step and a way to reduce it."""
        if part == "graph":
            return "the graph, so longer steps would help (separator)"
        if part == "target":
            return (
                "the target, so fewer escalations would help (another threshold, or a router "
                "trained for the pair), or a draft with which the target agrees for more tokens"
            )
        report = self.roles.get(part)
        overhead = report is not None and report.share < 0.3
        explained = (
            f"(memory traffic and compute explain {report.share:.0%} of it)"
            if report is not None
            else "(it uses no model of its own)"
        )
        if part == "router":
            change = "fewer layers" if overhead else "a smaller or quantized router"
            return f"the router {explained}, so {change} or DraftConfidence would help"
        change = (
            "fewer layers would help more than smaller layers"
            if overhead
            else "fewer or quantized weights would help (model_kwargs)"
        )
        return f"the draft {explained}, so {change}"

    @property
    def record(self) -> dict[str, Any]:
        """Plain data for JSON. All times are in seconds."""
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
                "nothing_kept": f.break_even(verified=False),
                "paper": f.paper,
            },
            "speed_up": {
                str(rate): {
                    "verified": f.speed_up(rate),
                    "nothing_kept": f.speed_up(rate, verified=False),
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
