"""Statistics of a batch job, updated while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BatchSummary"]


@dataclass
class BatchSummary:
    """Statistics of one run of a job."""

    total: int = 0
    """Number of requests in this shard."""
    skipped: int = 0
    """Number of requests answered by an earlier run."""
    failed_before: int = 0
    """Number of requests that failed in an earlier run and are not retried."""
    done: int = 0
    """Number of requests answered in this run."""
    failed: int = 0
    """Number of requests that failed in this run."""
    prompt_tokens: int = 0
    """Number of prompt tokens, counted by the target's tokenizer."""
    answer_tokens: int = 0
    """Number of answer tokens, counted by the target's tokenizer."""
    steps: int = 0
    """Number of steps in the answers."""
    escalated: int = 0
    """Number of steps written by the target."""
    draft_tokens: int = 0
    """Number of answer tokens written by the draft."""
    target_tokens: int = 0
    """Number of answer tokens written by the target."""
    seconds: float = 0.0
    """Duration up to the last record, loading included."""
    stopped: str | None = None
    """Reason why the job ended early: `max_time`. None if it did not."""
    _start: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, record: dict[str, Any], *, failed: bool) -> None:
        """Count a record that was written."""
        self.seconds = time.perf_counter() - self._start
        if failed:
            self.failed += 1
            return
        self.done += 1
        body = record["response"]["body"]
        self.prompt_tokens += body["usage"]["prompt_tokens"]
        self.answer_tokens += body["usage"]["completion_tokens"]
        for name in ("steps", "escalated", "draft_tokens", "target_tokens"):
            setattr(self, name, getattr(self, name) + body["arbitrage"][name])

    @property
    def remaining(self) -> int:
        """Number of requests that have neither an answer nor an error yet."""
        return self.total - self.skipped - self.failed_before - self.done - self.failed

    @property
    def succeeded(self) -> bool:
        """True if every request of this shard is answered."""
        return self.total == self.skipped + self.done

    @property
    def escalation_rate(self) -> float:
        """Fraction of steps that were escalated."""
        return self.escalated / self.steps if self.steps else 0.0

    @property
    def requests_per_second(self) -> float:
        """Records written per second, errors included."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Estimated remaining seconds at the current rate; None before the first record."""
        rate = self.requests_per_second
        return self.remaining / rate if rate else None

    def __str__(self) -> str:
        written = self.draft_tokens + self.target_tokens
        parts = [f"{self.done} done", f"{self.failed} failed"]
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        if self.failed_before:
            parts.append(f"{self.failed_before} failed before")
        if self.remaining:
            parts.append(f"{self.remaining} remaining")
        return " · ".join(
            [
                ", ".join(parts),
                f"{self.prompt_tokens} prompt + {self.answer_tokens} answer tokens",
                f"{self.escalation_rate:.0%} of the steps escalated"
                + (f" ({self.target_tokens / written:.0%} of the tokens)" if written else ""),
                f"{self.requests_per_second:.2f} requests/s",
                f"{self.seconds:.1f} s",
            ]
        )
