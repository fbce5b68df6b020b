"""Run measurements within a time limit and write the results after each of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import markdown_table

__all__ = ["Report"]


class Report:
    """Collects measurements and writes them as JSON and Markdown after each.

    Args:
        path: Path to the results without suffix.
        shapes: Model shapes by name of the pair.
        about: Facts about the run, such as device and versions.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[str, ...]], **about: str) -> None:
        self.path = path
        self.shapes = shapes
        self.end = time.monotonic()
        """Time after which no measurement is started."""
        self.data: dict[str, Any] = {**about, "pairs": {}}

    @property
    def text(self) -> str:
        """The results as Markdown."""
        about = ", ".join(f"{k} {v}" for k, v in self.data.items() if isinstance(v, str))
        lines = ["# The loop on a GPU", "", f"Random weights; {about}."]
        for name, pair in self.data["pairs"].items():
            lines += ["", f"## {name}: {', '.join(self.shapes[name])}", ""]
            lines += [f"- {k}: {_format(v)}" for k, v in pair.items() if not isinstance(v, dict)]
            # Measurements with the same keys share a table.
            tables: dict[tuple[str, ...], list[list[Any]]] = {}
            for key, value in pair.items():
                if isinstance(value, dict):
                    tables.setdefault(tuple(value), []).append([key, *map(_format, value.values())])
            for heads, rows in tables.items():
                lines += ["", *markdown_table(["", *heads], rows)]
        return "\n".join(lines)

    def run(self, pair: str, name: str, measure: Callable[[], Any], seconds: float = 0.0) -> Any:
        """Run a measurement and store its result, its error, or that no time was left.

        Args:
            pair: Name of the pair.
            name: Name of the measurement in the report.
            measure: Returns a number, a text, or the cells of a table row by column.
            seconds: Expected duration. The measurement is skipped if less time is left.

        Returns:
            The result of `measure`; None if it was skipped or failed.
        """
        result: Any = None
        if time.monotonic() + seconds > self.end:
            entry: Any = "skipped: no time left"
        else:
            start = time.monotonic()
            try:
                entry = result = measure()
            except Exception as error:  # the other measurements continue
                message = str(error).strip().partition("\n")[0]
                entry = f"failed: {type(error).__name__}: {message}"
            shown = json.dumps(entry) if isinstance(entry, dict) else _format(entry)
            print(f"{pair}, {name}: {shown} ({time.monotonic() - start:.1f} s)", flush=True)
        self.data["pairs"].setdefault(pair, {})[name] = entry
        self.write()
        return result

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.data, indent=2) + "\n")
        self.path.with_suffix(".md").write_text(self.text + "\n")


def _format(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
