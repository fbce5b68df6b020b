"""Names of checkpoints that mean the same on another machine."""

from __future__ import annotations

from pathlib import Path

from langgraph_arbitrage import embedded

__all__ = ["REMOTE", "local_path", "public_name", "same_model"]

REMOTE = "openai:"
"""What the name of a model on a server begins with: `openai:http://host:port/v1#model`."""

_PACKAGE = Path(embedded.__file__).resolve().parent


def public_name(checkpoint: str) -> str:
    """The hub id, `embedded:ROLE`, or a folder's last part: never where it lies or runs.

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


def same_model(name: str, other: str) -> bool:
    """Whether two names may mean one checkpoint: a hub id and a folder of its last part may.

    Example:
        >>> same_model("Qwen/Qwen2.5-1.5B", "Qwen2.5-1.5B"), same_model("a/m", "b/m")
        (True, False)
    """
    if local_path(name) == local_path(other):
        return True  # without a look at the disk
    a, b = public_name(name), public_name(other)
    if "/" in a and "/" in b:
        return a == b
    return a.rpartition("/")[2] == b.rpartition("/")[2]


def local_path(name: str) -> str:
    """Where a checkpoint of a public name lies: that of `embedded:ROLE`, else the name itself."""
    kind, _, role = name.partition(":")
    return str(_PACKAGE / role) if kind == "embedded" and role else name
