"""What was measured so far, on disk; and what there was no time for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measure import table

__all__ = ["Report"]


class Report:
    """Takes measurements one after another and writes all of them after each."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[str, ...]], **about: str) -> None:
        self.path = path
        self.shapes = shapes
        self.end = time.monotonic()
        """When nothing more is begun."""
        self.data: dict[str, Any] = {**about, "pairs": {}}

    @property
    def text(self) -> str:
        """As Markdown."""
        about = ", ".join(f"{k} {v}" for k, v in self.data.items() if isinstance(v, str))
        lines = ["# The loop on a GPU", "", f"Random weights; {about}."]
        for name, pair in self.data["pairs"].items():
            lines += ["", f"## {name}: {', '.join(self.shapes[name])}", ""]
            lines += [f"- {key}: {_shown(v)}" for key, v in pair.items() if not isinstance(v, dict)]
            tables: dict[tuple[str, ...], list[list[Any]]] = {}
            for key, value in pair.items():
                if isinstance(value, dict):
                    tables.setdefault(tuple(value), []).append([key, *map(_shown, value.values())])
            for heads, rows in tables.items():
                lines += ["", *table(["", *heads], rows)]
        return "\n".join(lines)

    def take(self, pair: str, what: str, measure: Callable[[], Any], seconds: float = 0.0) -> Any:
        """Measure something, or say why not; what was found, if anything.

        Args:
            pair: The pair that it is of.
            what: Its name in the report.
            measure: A number, a text, or a table's row by its heads.
            seconds: What it is expected to take: it is not begun where less time is left.
        """
        found: Any = None
        if time.monotonic() + seconds > self.end:
            told: Any = "no time left"
        else:
            start = time.monotonic()
            try:
                told = found = measure()
            except Exception as error:  # the others are measured all the same
                cause = str(error).strip().partition("\n")[0]
                told = f"failed: {type(error).__name__}: {cause}"
            shown = json.dumps(told) if isinstance(told, dict) else _shown(told)
            print(f"{pair}, {what}: {shown} ({time.monotonic() - start:.1f} s)", flush=True)
        self.data["pairs"].setdefault(pair, {})[what] = told
        self.write()
        return found

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.data, indent=2) + "\n")
        self.path.with_suffix(".md").write_text(self.text + "\n")


def _shown(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
