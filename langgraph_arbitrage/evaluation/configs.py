"""What can be set for an evaluation. The texts under the fields are the command line's help too."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EvaluateConfig"]


class EvaluateConfig(BaseModel):
    """How policies and thresholds are swept."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    policies: str | None = None
    """Which policies, by their names with commas between; `arbitrage evaluate --help` lists them.
    By default all for which there is a checkpoint."""
    points: int = Field(default=4, ge=1)
    """Thresholds a policy, laid out so that they escalate from few to most of the steps; the
    policy's own default comes on top."""
    pilot: int = Field(default=30, ge=2)
    """First questions, on which the thresholds are laid out by the scores of the draft's steps."""
    concurrency: int = Field(default=1, ge=1)
    """Questions under way at a time. At 1 each question goes to all points before the next one, so
    that they share the machine's noise; above it seconds are those of a busy machine."""
    within: float = Field(default=0.01, ge=0, lt=1)
    """Accuracy that may be lost against the target alone where speed-ups at equal accuracy and each
    policy's operating point are told."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of every interval."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap samples of the questions."""
    grading_limit: float = Field(default=10.0, gt=0)
    """Seconds that grading an answer may take; later ones count as wrong, and are counted."""
    traces: int = Field(default=150, ge=0)
    """Questions whose answers, step by step, go into the report: those on which the policies differ
    first."""
