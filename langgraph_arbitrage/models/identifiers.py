"""Converts checkpoint paths to names that do not depend on the machine."""

from __future__ import annotations

from pathlib import Path

from langgraph_arbitrage import embedded

__all__ = ["REMOTE", "local_path", "public_name", "same_model"]

REMOTE = "openai:"
"""Prefix of the address of a model on a server: `openai:http://host:port/v1#model`."""

_PACKAGE = Path(embedded.__file__).resolve().parent


def public_name(checkpoint: str) -> str:
    """Return the name of a checkpoint without local paths or server URLs.

    Returns:
        The hub id, `embedded:ROLE`, the last part of a folder's path, or the server's model name.

    Example:
        >>> public_name("Qwen/Qwen2.5-1.5B"), public_name(embedded.DRAFT)
        ('Qwen/Qwen2.5-1.5B', 'embedded:draft')
        >>> public_name("openai:http://gpu:8000/v1#Qwen/Qwen2.5-7B")
        'Qwen/Qwen2.5-7B'
    """
    if checkpoint.startswith(REMOTE):
        checkpoint = checkpoint.partition("#")[2]
    path = Path(checkpoint)
    if not path.exists():
        return checkpoint
    path = path.resolve()
    return f"embedded:{path.name}" if path.parent == _PACKAGE else path.name


def same_model(first: str, second: str) -> bool:
    """Return whether two names may refer to the same checkpoint.

    A hub id matches a local folder if the last parts of the id and the path are identical.

    Example:
        >>> same_model("Qwen/Qwen2.5-1.5B", "Qwen2.5-1.5B"), same_model("a/m", "b/m")
        (True, False)
    """
    if local_path(first) == local_path(second):
        return True  # no access to the file system needed
    a, b = public_name(first), public_name(second)
    if "/" in a and "/" in b:
        return a == b
    return a.rpartition("/")[2] == b.rpartition("/")[2]


def local_path(name: str) -> str:
    """Return the folder of an `embedded:ROLE` name. Other names are returned unchanged."""
    kind, _, role = name.partition(":")
    return str(_PACKAGE / role) if kind == "embedded" and role else name
