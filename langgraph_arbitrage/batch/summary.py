"""What came of a job: counted while it runs, told at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BatchSummary"]


@dataclass
class BatchSummary:
    """Figures of one run of a job."""

    total: int = 0
    """Lines of the input that belong to this shard."""
    skipped: int = 0
    """Answered by an earlier run."""
    failed_before: int = 0
    """Failed in an earlier run, and not asked again."""
    done: int = 0
    """Answered now."""
    failed: int = 0
    """Failed now."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    """Counted by the target's tokenizer."""
    steps: int = 0
    escalated: int = 0
    """Steps that the target wrote."""
    draft_tokens: int = 0
    target_tokens: int = 0
    """Tokens of the answers, by the model that wrote them."""
    seconds: float = 0.0
    """From the first question to now; loading the models is in it."""
    stopped: str | None = None
    """Why the job ended early, if it did: `max_time`."""
    _began: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, record: dict[str, Any], *, failed: bool) -> None:
        """Count a line that was written."""
        self.seconds = time.perf_counter() - self._began
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
    def left(self) -> int:
        """Lines without an answer or an error yet."""
        return self.total - self.skipped - self.failed_before - self.done - self.failed

    @property
    def succeeded(self) -> bool:
        """Whether every line of this shard has its answer."""
        return self.total == self.skipped + self.done

    @property
    def escalation_rate(self) -> float:
        """Escalated steps ÷ steps."""
        return self.escalated / self.steps if self.steps else 0.0

    @property
    def questions_per_second(self) -> float:
        """Lines written ÷ seconds."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None while it is not known."""
        rate = self.questions_per_second
        return self.left / rate if rate else None

    def __str__(self) -> str:
        written = self.draft_tokens + self.target_tokens
        parts = [f"{self.done} done", f"{self.failed} failed"]
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        if self.failed_before:
            parts.append(f"{self.failed_before} failed before")
        if self.left:
            parts.append(f"{self.left} not asked")
        return " · ".join(
            [
                ", ".join(parts),
                f"{self.prompt_tokens} + {self.answer_tokens} tokens",
                f"{self.escalation_rate:.0%} of the steps escalated"
                + (f" ({self.target_tokens / written:.0%} of the tokens)" if written else ""),
                f"{self.questions_per_second:.2f} questions/s",
                f"{self.seconds:.1f} s",
            ]
        )
