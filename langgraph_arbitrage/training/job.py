"""A training job and its output folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.training import card
from langgraph_arbitrage.training.configs import SurpriseConfig, TokenConfig
from langgraph_arbitrage.training.examples import TrainingData

__all__ = ["Job", "Progress"]

UNFINISHED_FILE = "unfinished.json"
"""Name of the file that marks the output folder of an unfinished job. The file holds the job's
fingerprint."""

Progress = Callable[[int, int], None]
"""Progress callback. Its arguments are the number of finished units and the total number."""


@dataclass(frozen=True)
class Job:
    """A router or a PRM to train."""

    data: TrainingData
    base: str
    """Checkpoint of the base model: a folder, a hub id, or `embedded:ROLE`."""
    output: Path
    """Folder of the trained checkpoint."""
    config: TokenConfig | SurpriseConfig
    """Training options. Their class selects the head."""
    device: str = "auto"
    """Device of the base model, as in `ArbitrageSettings`."""

    @property
    def role(self) -> Literal["router", "prm"]:
        """Role of the trained scorer."""
        return self.data.role

    @property
    def head(self) -> Literal["token", "surprise"]:
        """Kind of the head."""
        return "token" if isinstance(self.config, TokenConfig) else "surprise"

    def claim(self) -> None:
        """Claim the output folder, which must be new, empty, or that of the same unfinished job.

        Raises:
            DataError: The folder holds a finished result, another unfinished job, or other files.
        """
        fingerprint = self._fingerprint()
        files = sorted(p.name for p in self.output.iterdir()) if self.output.is_dir() else []
        if card.FILE in files and UNFINISHED_FILE not in files:
            raise DataError(
                f"{self.output} already holds a finished {self.role}: remove it to train again, or "
                "choose another folder"
            )
        if UNFINISHED_FILE in files:
            if (self.output / UNFINISHED_FILE).read_text(encoding="utf-8") != fingerprint:
                raise DataError(
                    f"{self.output} holds an unfinished training with other rows or options: "
                    "repeat its command to finish it, or choose another folder"
                )
            return
        if files:
            raise DataError(
                f"{self.output} is not empty (it holds {', '.join(files[:3])}): choose a new or an "
                "empty folder"
            )
        self.output.mkdir(parents=True, exist_ok=True)
        # In distributed training, every process writes this file with the same content. An atomic
        # replacement prevents that a process reads a partial file.
        part = self.output.with_name(f"{self.output.name}.{os.getpid()}.part")
        part.write_text(fingerprint, encoding="utf-8")
        part.replace(self.output / UNFINISHED_FILE)

    def mark_finished(self) -> None:
        """Remove the mark of an unfinished job, after the complete result was saved."""
        (self.output / UNFINISHED_FILE).unlink()

    def _fingerprint(self) -> str:
        """Return a text that is identical only for jobs with the same data, base and options."""
        digest = hashlib.blake2b(repr(self.data).encode(), digest_size=16)
        fields = {
            "role": self.role,
            "head": self.head,
            "base": self.base,
            "data": digest.hexdigest(),
            "config": self.config.model_dump(),
        }
        return json.dumps(fields, indent=1) + "\n"
