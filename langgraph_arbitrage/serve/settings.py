"""Settings of the server. The docstrings under the fields are also the command's help texts."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, SecretStr, model_validator

from langgraph_arbitrage.config.base import CheckedSettings
from langgraph_arbitrage.errors import SettingsError

__all__ = ["ServeSettings"]


class ServeSettings(CheckedSettings):
    """Settings of the server, shared by the command and `create_app`."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on. The default accepts connections from this machine only; 0.0.0.0 accepts
    them from all machines."""
    port: int = 8000
    """Port to listen on; 0 selects a free port."""
    api_key: SecretStr | None = None
    """API key that clients must send as a bearer token. Default: the environment variable
    ARBITRAGE_API_KEY; if it is not set, no key is required."""
    name: str = "arbitrage"
    """Model name of the pair. The names `draft` and `target` select one of its models alone."""
    concurrency: int = 64
    """Maximum number of requests answered concurrently. Further requests wait."""
    max_waiting: int = 256
    """Maximum number of waiting requests. Further requests get status 503."""
    max_body: int = 4_000_000
    """Maximum size of a request body, in bytes. Larger requests get status 413."""
    grace: float = 30.0
    """Time limit for the answers in progress when the server is stopped, in seconds."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.port < 65536:
            raise SettingsError(f"port must be a number from 0 to 65535, not {self.port}")
        minimums = (("concurrency", 1), ("max_waiting", 0), ("max_body", 1), ("grace", 0))
        for name, minimum in minimums:
            value = getattr(self, name)
            if not value >= minimum:
                raise SettingsError(f"{name} must be at least {minimum}, not {value}")
        if not self.host:
            raise SettingsError("host must not be empty. 127.0.0.1 is this machine only")
        if self.api_key is not None and not self.api_key.get_secret_value():
            raise SettingsError("api_key must not be empty. Omit it to serve without a key")
        if self.name in ("", "draft", "target"):
            raise SettingsError(
                f"name must not be {self.name!r}: draft and target name the single models"
            )
        return self

    @property
    def max_requests(self) -> int:
        """Maximum number of requests in progress or waiting."""
        return self.concurrency + self.max_waiting
