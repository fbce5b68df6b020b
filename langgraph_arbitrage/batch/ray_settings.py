"""Settings of a job on Ray. The docstrings under the fields are also the command's help texts."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, model_validator

from langgraph_arbitrage.config.base import CheckedSettings
from langgraph_arbitrage.errors import SettingsError

__all__ = ["RaySettings"]

RESERVED_CPUS = 0.5
"""CPUs left to Ray's own tasks. Without any, these tasks and the actors would deadlock."""


class RaySettings(CheckedSettings):
    """Distribution of a job over Ray actors. Each actor loads all models."""

    model_config = ConfigDict(frozen=True)

    ray_address: str | None = None
    """Address of a Ray cluster, or `auto` for a cluster running on this machine. Default: a local
    cluster is started for the job."""
    actors: int = 1
    """Number of actors. Each actor loads all models and answers up to `concurrency` requests
    concurrently."""
    cpus_per_actor: float | None = None
    """Number of CPUs per actor; may be fractional. Default: an equal share of the cluster, at most
    1, with half a CPU left to Ray."""
    gpus_per_actor: float = 0.0
    """Number of GPUs per actor; may be fractional."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.actors < 1:
            raise SettingsError(f"actors must be at least 1, not {self.actors}")
        if self.cpus_per_actor is not None and not self.cpus_per_actor > 0:
            raise SettingsError(f"cpus_per_actor must be above 0, not {self.cpus_per_actor}")
        if not self.gpus_per_actor >= 0:
            raise SettingsError(f"gpus_per_actor must be at least 0, not {self.gpus_per_actor}")
        return self

    def cpus(self, available: float) -> float:
        """Return the number of CPUs per actor.

        Args:
            available: Number of CPUs of the cluster.

        Raises:
            SettingsError: The actors would leave no CPU to Ray's own tasks and deadlock.
        """
        limit = (available - RESERVED_CPUS) / self.actors
        if self.cpus_per_actor is None:
            return max(0.01, min(1.0, int(limit * 100) / 100))
        if self.cpus_per_actor > limit:
            raise SettingsError(
                f"{self.actors} actors with {self.cpus_per_actor:g} CPUs each would leave less "
                f"than {RESERVED_CPUS:g} of {available:g} CPUs to Ray's own tasks and deadlock. "
                f"Use fewer actors, or at most cpus_per_actor={int(limit * 100) / 100:g}"
            )
        return self.cpus_per_actor

    def check_gpus(self, available: float) -> None:
        """Raise `SettingsError` if the cluster has too few GPUs."""
        required = self.actors * self.gpus_per_actor
        if required > available:
            raise SettingsError(
                f"{self.actors} actors with {self.gpus_per_actor:g} GPUs each need {required:g} "
                f"GPUs, but the cluster has {available:g}. Use fewer actors or a smaller "
                "gpus_per_actor"
            )
