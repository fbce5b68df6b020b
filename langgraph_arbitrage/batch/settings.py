"""Settings of a batch job. The docstrings under the fields are also the command's help texts."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import ConfigDict, model_validator

from langgraph_arbitrage.config.base import CheckedSettings, Flag
from langgraph_arbitrage.errors import SettingsError

__all__ = ["BatchSettings"]

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")


class BatchSettings(CheckedSettings):
    """Settings of a batch job, shared by the command and the Python functions."""

    model_config = ConfigDict(frozen=True)

    concurrency: int = 32
    """Maximum number of requests answered concurrently."""
    retry_failed: bool = False
    """Answer requests again whose output record is an error, and replace those records."""
    max_time: Annotated[float | None, Flag("job", "SECONDS")] = None
    """Time limit of the job, in seconds. The next run answers the remaining requests. Default: no
    limit."""
    shard: Annotated[str | None, Flag("job", "I/N")] = None
    """Shard I/N of the input: every N-th line, starting at line I. N machines can share one input.
    Default: all lines."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.concurrency < 1:
            raise SettingsError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.max_time is not None and not self.max_time > 0:
            raise SettingsError(f"max_time must be above 0 seconds, not {self.max_time}")
        _ = self.index_and_count
        return self

    @property
    def index_and_count(self) -> tuple[int, int]:
        """Index of this shard, from 1, and number of shards; (1, 1) without `shard`.

        Raises:
            SettingsError: `shard` is not I/N with 1 <= I <= N.
        """
        if self.shard is None:
            return 1, 1
        match = _SHARD.fullmatch(self.shard)
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count:
            raise SettingsError(
                f"shard must be I/N with I from 1 to N, such as 1/4, not {self.shard!r}"
            )
        return index, count

    def includes(self, line_number: int) -> bool:
        """Whether a line of the input, counted from 1, belongs to this shard."""
        index, count = self.index_and_count
        return (line_number - index) % count == 0
