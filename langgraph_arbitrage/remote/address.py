"""Parses addresses of models on servers: `openai:http://host:port/v1#model`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.models.identifiers import REMOTE, local_path

__all__ = ["ServerAddress", "parse_address"]

DEFAULT_KEY_VARIABLE = "ARBITRAGE_REMOTE_KEY"
ADDRESS_FORMAT = "openai:http://host:port/v1#model"
PROMPT_FORMATS = ("auto", "ids", "text")


@dataclass(frozen=True)
class ServerAddress:
    """The address of a model on a server, and the connection options."""

    url: str
    """Base URL of the server, up to and including `/v1`."""
    model: str
    """Value of the field `model` in requests."""
    tokenizer: str
    """Local folder or hub id of the model's tokenizer. The tokenizer runs locally. Default:
    `model`."""
    prompt: Literal["auto", "ids", "text"] = "auto"
    """Prompt format. "ids" sends the exact token ids. "text" sends text, which every server
    accepts. "auto" sends one test request, and uses "ids" if the server accepts them."""
    timeout: float = 60.0
    """Maximum number of seconds between two packets of a response. A request that exceeds it is
    retried."""
    retries: int = 4
    """Maximum number of consecutive retries of a request. The delay before a retry grows from 0.5
    to 8 seconds."""
    key: str = DEFAULT_KEY_VARIABLE
    """Name of the environment variable that contains the server's API key."""

    def __str__(self) -> str:
        return f"{self.url} (model {self.model})"


def parse_address(path: str) -> ServerAddress | None:
    """Parse a model path as a server address.

    Returns:
        The address. None if `path` is a local folder or a hub id.

    Example:
        >>> parse_address("Qwen/Qwen2.5-7B-Instruct") is None
        True
        >>> address = parse_address("openai:http://gpu:8000/v1?timeout=20#Qwen/Qwen2.5-7B-Instruct")
        >>> address.url, address.model, address.timeout
        ('http://gpu:8000/v1', 'Qwen/Qwen2.5-7B-Instruct', 20.0)

    Raises:
        SettingsError: The address or one of its options is invalid.
    """
    return _parse(path) if path.startswith(REMOTE) else None


@lru_cache(maxsize=64)
def _parse(path: str) -> ServerAddress:
    parts = urlsplit(path.removeprefix(REMOTE))
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.fragment:
        raise SettingsError(
            f"{path!r} is not a valid server address. Use the format {ADDRESS_FORMAT}."
        )
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        match name:
            case "tokenizer" | "key" if value:
                options[name] = value
            case "prompt" if value in PROMPT_FORMATS:
                options[name] = value
            case "timeout" | "retries" if (number := _parse_number(name, value)) is not None:
                options[name] = number
            case _:
                raise SettingsError(
                    f"{name}={value} in {path!r} is not a valid option of a server address. Valid "
                    f"options: tokenizer=NAME, prompt={'|'.join(PROMPT_FORMATS)}, timeout=SECONDS, "
                    "retries=N, key=VARIABLE"
                )
    model = parts.fragment
    options.setdefault("tokenizer", local_path(model))
    options["tokenizer"] = local_path(options["tokenizer"])
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return ServerAddress(url=url, model=model, **options)


def _parse_number(name: str, value: str) -> float | int | None:
    try:
        number = float(value) if name == "timeout" else int(value)
    except ValueError:
        return None
    allowed = 0 < number < float("inf") if name == "timeout" else number >= 0
    return number if allowed else None
