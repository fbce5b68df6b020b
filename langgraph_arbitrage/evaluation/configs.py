"""Options of an evaluation. The field docstrings are also the help texts of the command line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EvaluateConfig"]


class EvaluateConfig(BaseModel):
    """Options of a sweep over policies and thresholds."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    policies: str | None = None
    """Comma-separated names of the policies to evaluate; `arbitrage evaluate --help` lists them.
    Default: all policies whose checkpoints are available."""
    points: int = Field(default=4, ge=1)
    """Number of thresholds per policy, chosen to cover low to high escalation rates. The policy's
    default threshold is added."""
    pilot: int = Field(default=30, ge=2)
    """Number of questions, from the start of the dataset, that are answered to choose the
    thresholds. The thresholds are chosen by the scores of the draft's steps."""
    concurrency: int = Field(default=1, ge=1)
    """Number of questions answered concurrently. At 1, all points answer a question before the next
    question starts, so that noise of the machine affects all points equally. Above 1, the latency
    of a question includes the load of the other questions."""
    within: float = Field(default=0.01, ge=0, lt=1)
    """Maximum accuracy, as a fraction, that a policy may lose against the target alone. The report
    selects each policy's operating point and states its speed-up within this loss."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of all intervals."""
    resamples: int = Field(default=2000, ge=100)
    """Number of bootstrap samples of the questions."""
    grading_limit: float = Field(default=10.0, gt=0)
    """Time limit for grading an answer, in seconds. Answers that exceed it count as wrong and are
    reported."""
    traces: int = Field(default=150, ge=0)
    """Maximum number of questions whose answers the report shows step by step. Questions on which
    the policies differ most come first."""
