"""How a job is spread over Ray actors. The texts under the fields are the command's help too."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, model_validator

from langgraph_arbitrage.config.base import CheckedSettings
from langgraph_arbitrage.errors import SettingsError

__all__ = ["RaySettings"]

SPARE = 0.5  # CPUs that Ray's own work needs: without any, actors wait for it and it for them


class RaySettings(CheckedSettings):
    """How a job is spread over Ray actors, each of which holds the models."""

    model_config = ConfigDict(frozen=True)

    ray_address: str | None = None
    """Address of a Ray cluster, or auto for the one that runs here; by default one is started on
    this machine for the job."""
    actors: int = 1
    """Actors, each with models of its own; concurrency counts for each."""
    cpus_per_actor: float | None = None
    """CPUs of an actor, a fraction allowed; by default an equal share, half a CPU left for Ray."""
    gpus_per_actor: float = 0.0
    """GPUs of an actor, a fraction allowed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.actors < 1:
            raise SettingsError(f"actors must be at least 1, not {self.actors}")
        if self.cpus_per_actor is not None and not self.cpus_per_actor > 0:
            raise SettingsError(f"cpus_per_actor must be above 0, not {self.cpus_per_actor}")
        if not self.gpus_per_actor >= 0:
            raise SettingsError(f"gpus_per_actor must be at least 0, not {self.gpus_per_actor}")
        return self

    def cpus(self, there: float) -> float:
        """CPUs of an actor, in a cluster with so many.

        Raises:
            SettingsError: The actors would take all, and wait for ever for Ray's own work.
        """
        most = (there - SPARE) / self.actors
        if self.cpus_per_actor is None:
            return max(0.01, min(1.0, int(most * 100) / 100))
        if self.cpus_per_actor > most:
            raise SettingsError(
                f"{self.actors} actors with {self.cpus_per_actor:g} CPUs each leave nothing of "
                f"{there:g} CPUs for Ray's own work, and would wait for it for ever: take fewer "
                f"actors, or at most cpus_per_actor={int(most * 100) / 100:g}"
            )
        return self.cpus_per_actor

    def check_gpus(self, there: float) -> None:
        """Raise `SettingsError` where a cluster has too few GPUs."""
        wanted = self.actors * self.gpus_per_actor
        if wanted > there:
            raise SettingsError(
                f"{self.actors} actors with {self.gpus_per_actor:g} GPUs each need {wanted:g}, and "
                f"the cluster has {there:g}: take fewer actors, or a smaller gpus_per_actor"
            )
