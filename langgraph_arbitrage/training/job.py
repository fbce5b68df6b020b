"""What is to be trained, and the folder that it is written to."""

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
from langgraph_arbitrage.training.examples import Labelled

__all__ = ["Job", "Progress"]

MARK = "unfinished.json"

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


@dataclass(frozen=True)
class Job:
    """A router or a PRM that is to be trained."""

    data: Labelled
    base: str
    """Checkpoint that it is built on: a folder, a hub id, or `embedded:ROLE`."""
    output: Path
    """Folder of the result."""
    config: TokenConfig | SurpriseConfig
    """How; which head, too."""
    device: str = "auto"
    """Where the base runs, as in `ArbitrageSettings`."""

    @property
    def role(self) -> Literal["router", "prm"]:
        """What is made."""
        return self.data.role

    @property
    def head(self) -> Literal["token", "surprise"]:
        """Of which kind."""
        return "token" if isinstance(self.config, TokenConfig) else "surprise"

    def claim(self) -> None:
        """Take the output folder, which a stopped training of the same may have begun.

        Raises:
            DataError: It holds something else.
        """
        wanted = self._fingerprint()
        there = sorted(p.name for p in self.output.iterdir()) if self.output.is_dir() else []
        if card.FILE in there and MARK not in there:
            raise DataError(
                f"{self.output} holds a finished {self.role} already: remove it to train again, or "
                "give another folder"
            )
        if MARK in there:
            if (self.output / MARK).read_text(encoding="utf-8") != wanted:
                raise DataError(
                    f"{self.output} holds an unfinished training with other rows or options: "
                    "repeat that command to finish it, or give another folder"
                )
            return
        if there:
            raise DataError(
                f"{self.output} is not empty (it holds {', '.join(there[:3])}): give a folder of "
                "its own"
            )
        self.output.mkdir(parents=True, exist_ok=True)
        # Each process of several writes the same; a reader sees all of it or nothing.
        part = self.output.with_name(f"{self.output.name}.{os.getpid()}.part")
        part.write_text(wanted, encoding="utf-8")
        part.replace(self.output / MARK)

    def finished(self) -> None:
        """The folder holds the whole result."""
        (self.output / MARK).unlink()

    def _fingerprint(self) -> str:
        """What tells this training from others."""
        digest = hashlib.blake2b(repr(self.data).encode(), digest_size=16)
        plain = {
            "role": self.role,
            "head": self.head,
            "base": self.base,
            "data": digest.hexdigest(),
            "config": self.config.model_dump(),
        }
        return json.dumps(plain, indent=1) + "\n"
