"""How a job is run. The texts under the fields are the command's help too."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import ConfigDict, model_validator

from langgraph_arbitrage.config.base import CheckedSettings, Flag
from langgraph_arbitrage.errors import SettingsError

__all__ = ["BatchSettings"]

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")


class BatchSettings(CheckedSettings):
    """How a job is run: the same for the command and the Python calls."""

    model_config = ConfigDict(frozen=True)

    concurrency: int = 32
    """Most questions that are answered at a time."""
    retry_failed: bool = False
    """Ask again what the output file tells as failed; those lines are replaced."""
    max_time: Annotated[float | None, Flag("job", "SECONDS")] = None
    """Seconds after which the job stops; what it has not answered is asked the next time."""
    shard: Annotated[str | None, Flag("job", "I/N")] = None
    """I/N: only every N-th line, from the I-th on, so that N machines share one input."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.concurrency < 1:
            raise SettingsError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.max_time is not None and not self.max_time > 0:
            raise SettingsError(f"max_time must be above 0 seconds, not {self.max_time}")
        _ = self.part
        return self

    @property
    def part(self) -> tuple[int, int]:
        """Which part of how many, from 1: (1, 1) without `shard`.

        Raises:
            SettingsError: `shard` is not I/N with 1 <= I <= N.
        """
        if self.shard is None:
            return 1, 1
        found = _SHARD.fullmatch(self.shard)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= index <= count:
            raise SettingsError(
                f"shard must be I/N with I from 1 to N, such as 1/4, not {self.shard!r}"
            )
        return index, count

    def has(self, number: int) -> bool:
        """Whether a line of the input, counted from 1, belongs to this shard."""
        index, count = self.part
        return (number - index) % count == 0
