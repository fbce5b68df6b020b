"""How the endpoint is served. The texts under the fields are the command's help too."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, SecretStr, model_validator

from langgraph_arbitrage.config.base import CheckedSettings
from langgraph_arbitrage.errors import SettingsError

__all__ = ["ServeSettings"]


class ServeSettings(CheckedSettings):
    """How the endpoint is served: the same for the command and `create_app`."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine reaches it, 0.0.0.0 lets all others."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    api_key: SecretStr | None = None
    """Key that clients have to send as bearer token; by default the environment's
    ARBITRAGE_API_KEY, and none where that is not set."""
    name: str = "arbitrage"
    """What clients call the pair of models; draft and target stand beside it, each model alone."""
    concurrency: int = 64
    """Most answers that the models work on at a time; more wait."""
    max_waiting: int = 256
    """Most requests that wait; one more is told to come back later (status 503)."""
    max_body: int = 4_000_000
    """Most bytes of a request; a larger one is refused (status 413)."""
    grace: float = 30.0
    """Seconds that running answers have to finish when the server is told to stop."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.port < 65536:
            raise SettingsError(f"port must be a number from 0 to 65535, not {self.port}")
        for name, least in (("concurrency", 1), ("max_waiting", 0), ("max_body", 1), ("grace", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise SettingsError(f"{name} must be at least {least}, not {value}")
        if not self.host:
            raise SettingsError("host must not be empty: 127.0.0.1 is this machine alone")
        if self.api_key is not None and not self.api_key.get_secret_value():
            raise SettingsError("api_key must not be empty: leave it out to serve without one")
        if self.name in ("", "draft", "target"):
            raise SettingsError(f"name must not be {self.name!r}: that is a model of its own")
        return self

    @property
    def most_open(self) -> int:
        """Most requests that run or wait at a time."""
        return self.concurrency + self.max_waiting
