"""Lines of batch jobs for the tests, and settings of a chat model that answers them soon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from langgraph_arbitrage import Random
from tiny import QUESTIONS, pair

SETTINGS: dict[str, Any] = {
    **pair(endless=True, words=True),
    "router": Random(0.3),
    "separator": "\n",
    "max_tokens": 8,
    "max_slots": 59,  # its own: no engine of another test, made before this one could look in
}


def request_line(n: int, /, **body: Any) -> dict[str, Any]:
    """A line of an OpenAI batch."""
    messages = [{"role": "user", "content": f"{QUESTIONS[n % len(QUESTIONS)]} {n}"}]
    return {
        "custom_id": f"q{n}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "any", "messages": messages} | body,
    }


def write(path: Path, *lines: Any) -> Path:
    """Write records, or lines as they are, one a line."""
    texts = (x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of an output; each must be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]
