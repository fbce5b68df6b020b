"""The name of a model that runs on a server: `openai:http://host:port/v1#model`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.models.identifiers import REMOTE, local_path

__all__ = ["Address", "address_of"]

KEY = "ARBITRAGE_REMOTE_KEY"
FORM = "openai:http://host:port/v1#model"
PROMPTS = ("auto", "ids", "text")


@dataclass(frozen=True)
class Address:
    """Where a model is served, and how it is asked."""

    url: str
    """The server's base URL, up to /v1."""
    model: str
    """What the server calls the model."""
    tokenizer: str
    """Folder or hub id of the model's tokenizer, which renders the prompts here; by default the
    model's own name."""
    prompt: Literal["auto", "ids", "text"] = "auto"
    """Whether prompts are sent as token ids, which are exact, or as text, which every server
    takes; `auto` asks the server once."""
    timeout: float = 60.0
    """Seconds without a word from the server until it counts as gone."""
    retries: int = 4
    """How often a request that broke off, or was told to come back, is made again; the waits
    between grow from half a second on."""
    key: str = KEY
    """Environment variable that holds the server's key, if it wants one."""

    def __str__(self) -> str:
        return f"{self.url} (model {self.model})"


def address_of(path: str) -> Address | None:
    """The address that a model's name is; None where it is a folder or a hub id.

    Example:
        >>> address_of("Qwen/Qwen2.5-7B-Instruct") is None
        True
        >>> found = address_of("openai:http://gpu:8000/v1?timeout=20#Qwen/Qwen2.5-7B-Instruct")
        >>> found.url, found.model, found.timeout
        ('http://gpu:8000/v1', 'Qwen/Qwen2.5-7B-Instruct', 20.0)

    Raises:
        SettingsError: It is an address that cannot be read.
    """
    return _parsed(path) if path.startswith(REMOTE) else None


@lru_cache(maxsize=64)
def _parsed(path: str) -> Address:
    parts = urlsplit(path.removeprefix(REMOTE))
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.fragment:
        raise SettingsError(f"{path!r} is no address of a served model: it has the form {FORM}")
    found: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        match name:
            case "tokenizer" | "key" if value:
                found[name] = value
            case "prompt" if value in PROMPTS:
                found[name] = value
            case "timeout" | "retries" if (number := _number(name, value)) is not None:
                found[name] = number
            case _:
                raise SettingsError(
                    f"{name}={value} in {path!r} is no setting of an address: those are tokenizer="
                    f"NAME, prompt={'|'.join(PROMPTS)}, timeout=SECONDS, retries=N, key=VARIABLE"
                )
    model = parts.fragment
    found.setdefault("tokenizer", local_path(model))
    found["tokenizer"] = local_path(found["tokenizer"])
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return Address(url=url, model=model, **found)


def _number(name: str, value: str) -> float | int | None:
    try:
        number = float(value) if name == "timeout" else int(value)
    except ValueError:
        return None
    allowed = 0 < number < float("inf") if name == "timeout" else number >= 0
    return number if allowed else None
